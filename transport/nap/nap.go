// Package nap sleeps for less than the timers of the runtime can tell apart, so that what comes under load comes together.
package nap
