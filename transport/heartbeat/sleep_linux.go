package heartbeat

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm goes off when the time of day is set or the host wakes up. It is a timer for a day that never comes, which
// Linux cancels then.
type alarm struct{ file *os.File }

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("%w: timerfd: %w", errors.ErrUnsupported, err)
	}
	a := &alarm{os.NewFile(uintptr(fd), "timerfd")}
	if err := a.arm(); err != nil {
		a.close()
		return nil, fmt.Errorf("%w: timerfd: %w", errors.ErrUnsupported, err)
	}
	return a, nil
}

func (a *alarm) arm() error {
	raw, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	never := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())}
	err = raw.Control(func(fd uintptr) {
		e = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
	})
	return errors.Join(err, e)
}

// wait returns nil when the alarm goes off.
func (a *alarm) wait() error {
	var expirations [8]byte
	if _, err := a.file.Read(expirations[:]); err != nil && !errors.Is(err, unix.ECANCELED) {
		return err
	}
	return a.arm()
}

// close ends wait, too.
func (a *alarm) close() { _ = a.file.Close() }

func readClocks() Clocks {
	clock := func(id int32) time.Duration {
		var t unix.Timespec
		if unix.ClockGettime(id, &t) != nil {
			return 0
		}
		return time.Duration(t.Nano())
	}
	return Clocks{Wall: clock(unix.CLOCK_REALTIME), Boot: clock(unix.CLOCK_BOOTTIME), Awake: clock(unix.CLOCK_MONOTONIC)}
}
