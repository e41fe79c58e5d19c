package stack

import (
	"runtime"
	"testing"

	"culvert.example/vpn/packet"
)

// TestIdle holds on to what a stack costs on which nothing happens, since a process may have a thousand of them.
func TestIdle(t *testing.T) {
	const n, most = 50, 100 << 10
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	stacks := make([]*Stack, n)
	for i := range stacks {
		stacks[i] = newStack(t, Config{Addresses: prefixes(alice4, alice6)})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := (int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / n
	each := float64(runtime.NumGoroutine()-goroutines) / n
	t.Logf("%d KiB and %.1f goroutines for each stack", used>>10, each)
	if used > most {
		t.Errorf("%d bytes for each stack, want at most %d", used, most)
	}
	// The netstack has a goroutine for each processor.
	if want := float64(runtime.GOMAXPROCS(0)); each > want {
		t.Errorf("%.1f goroutines for each stack, want at most %.0f", each, want)
	}
	runtime.KeepAlive(stacks)
}

// TestWait waits for a packet without taking it.
func TestWait(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(alice4)})
	w := s.Link().(packet.Waiter)
	done := make(chan error)
	go func() { done <- w.Wait() }()
	c, err := s.DialContext(soon(t), "udp", "10.9.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Fatalf("with a packet there: %v", err)
	}
	b := packet.NewBatch(4, 1500)
	if n, err := s.Link().ReadBatch(b); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	go func() { done <- w.Wait() }()
	s.Close()
	if err := <-done; err == nil {
		t.Fatal("no error after Close")
	}
}
