// Package offload does in bulk what network cards do: a [Grouper] finds packets of a batch that follow each other and may
// travel as one, and a [Cutter] cuts one large packet into those that may travel. Both work on whole batches, without
// allocating memory.
//
// The saving is in what each packet costs beyond its bytes: system calls, look-ups, timers, acknowledgements. A network
// stack does most of its work once for a packet, whether that has 64 bytes or 64 KiB.
//
// Neither may be noticed. Packets are joined only if their receiver could not tell the difference, their checksums are
// verified before they go up in that of the whole, and those of a flow stay in order. What is cut has the headers that its
// sender would have written.
package offload
