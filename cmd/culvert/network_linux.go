package main

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// addressNews returns a channel that holds something after addresses of the machine may have changed, until ctx ends. It is nil if the
// kernel does not tell.
func addressNews(ctx context.Context) <-chan struct{} {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	// rtnetlink(7): the kernel sends a message to these groups for each address that comes or goes.
	const groups = 1<<(syscall.RTNLGRP_IPV4_IFADDR-1) | 1<<(syscall.RTNLGRP_IPV6_IFADDR-1)
	if err := syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: groups}); err != nil {
		syscall.Close(fd)
		return nil
	}
	f := os.NewFile(uintptr(fd), "netlink")
	news := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer stop()
		defer f.Close()
		buf := make([]byte, 16<<10)
		for {
			// The messages need not be understood: whoever gets the news looks. When there are too many of them, ENOBUFS is news too.
			if _, err := f.Read(buf); err != nil && !errors.Is(err, syscall.ENOBUFS) {
				return
			}
			select {
			case news <- struct{}{}:
			default:
			}
		}
	}()
	return news
}
