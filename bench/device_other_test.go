//go:build !linux

package bench

// deviceRungs need a TUN device and namespaces to put it in.
var deviceRungs []rung
