package flow

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"culvert.example/vpn/stack"
)

// errNowhere reports a destination to which no way leads.
var errNowhere = errors.New("flow: no way leads there")

// A fate is what a program is told about a destination that was not reached.
type fate struct {
	why stack.Reason
	// silent says that it is told nothing, since nothing is known. It tries again, or gives up by itself.
	silent bool
}

// fateOf returns what a program is to be told about err.
func fateOf(err error) fate {
	var timeout net.Error
	switch {
	case errors.Is(err, errNowhere), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ENETDOWN):
		return fate{why: stack.NetUnreachable}
	case errors.Is(err, syscall.ECONNREFUSED):
		return fate{why: stack.PortUnreachable}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fate{why: stack.Prohibited}
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fate{silent: true}
	case errors.As(err, &timeout) && timeout.Timeout():
		return fate{silent: true}
	}
	return fate{why: stack.HostUnreachable}
}

// A refusable is a request of the stack.
type refusable interface {
	Unreachable(stack.Reason)
	Ignore()
}

// refuse tells the program what err says.
func refuse(r refusable, err error) {
	if f := fateOf(err); f.silent {
		r.Ignore()
	} else {
		r.Unreachable(f.why)
	}
}

// turnAway answers a flow that there is no place for: by a refusal, or while the Interceptor closes not at all, so that the program
// tries again, when another data path is there.
func (in *Interceptor) turnAway(r refusable) {
	if in.isClosing.Load() {
		r.Ignore()
		return
	}
	r.Unreachable(stack.PortUnreachable)
}
