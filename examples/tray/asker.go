package main

import (
	"context"
	"errors"

	"culvert.example/vpn/transport/login"
)

// An asker puts questions to the user. Its methods may be called from any goroutine.
type asker interface {
	// Answer implements login.Prompter.
	login.Prompter
	// confirm shows a text and waits until the user goes on, or fails with errDeclined.
	confirm(ctx context.Context, title, text string) error
	// show shows a text. It waits until the user has seen it, or could have, or ctx ends.
	show(ctx context.Context, title, text string) error
	// again brings the open question back to the user, if there is one.
	again()
}

var (
	errDeclined = errors.New("you chose to cancel")
	errNoAnswer = errors.New("nobody has answered the question")
)
