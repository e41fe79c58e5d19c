// Package offload does in bulk what network cards do: it finds packets that follow each other and may travel as one, and
// cuts one large packet into those that may travel.
package offload
