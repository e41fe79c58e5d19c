//go:build linux || freebsd || openbsd || netbsd || windows || (darwin && cgo)

package main

import (
	"runtime"
	"strings"
	"time"

	"fyne.io/systray"
)

// A tray is the view in the tray of the desktop. There is one in a process, since package systray keeps its state in variables.
type tray struct {
	click func(command string)
	done  chan struct{}

	items   map[string]*systray.MenuItem
	entries map[string]entry // what is shown, by identifier
	symbol  symbol
	tooltip string
	icons   map[symbol][]byte
	begun   time.Time
	settled bool
}

// trayError is nil: this system has a tray as far as the compiler knows.
func trayError() error { return nil }

// runTray shows the tray until work returns, and returns what it does. It must run on the goroutine of main, because the loops of some
// systems insist on the first thread. The first model is there before anybody sees the tray. Work gets the view, and commands go to
// click.
func runTray(first model, click func(command string), work func(view) error) error {
	t := &tray{
		click: click, done: make(chan struct{}), begun: time.Now(),
		items: map[string]*systray.MenuItem{}, entries: map[string]entry{}, icons: map[symbol][]byte{},
	}
	for s := symbolOff; s <= symbolAttention; s++ {
		t.icons[s] = icon(s, runtime.GOOS)
	}
	ended := make(chan error, 1)
	systray.Run(func() {
		// The tray answers nobody before this returns, so that the menu is whole from the start.
		systray.SetTitle("Culvert")
		t.build(first.menu(t.begun), nil)
		t.face(first)
		go func() {
			ended <- work(t)
			close(t.done)
			systray.Quit()
		}()
	}, nil)
	return <-ended
}

// build makes the items of a menu. Later calls of show change them.
func (t *tray) build(entries []entry, parent *systray.MenuItem) {
	for _, e := range entries {
		if e.title == "" {
			systray.AddSeparator()
			continue
		}
		var item *systray.MenuItem
		switch {
		case parent == nil && e.check:
			item = systray.AddMenuItemCheckbox(label(e.title), e.hint, e.checked)
		case parent == nil:
			item = systray.AddMenuItem(label(e.title), e.hint)
		case e.check:
			item = parent.AddSubMenuItemCheckbox(label(e.title), e.hint, e.checked)
		default:
			item = parent.AddSubMenuItem(label(e.title), e.hint)
		}
		t.items[e.id] = item
		t.entries[e.id] = entry{title: e.title, checked: e.checked}
		t.update(e)
		t.build(e.children, item)
		if len(e.children) == 0 {
			go t.clicks(item, e.id)
		}
	}
}

// clicks hands on the clicks on an item until the tray ends.
func (t *tray) clicks(item *systray.MenuItem, id string) {
	for {
		select {
		case <-item.ClickedCh:
			t.click(id)
		case <-t.done:
			return
		}
	}
}

// show implements view. What has not changed is left alone, because each change is a message to the desktop.
func (t *tray) show(m model, now time.Time) {
	if !t.settled && now.Sub(t.begun) > time.Second {
		// What is set while the tray is just registering may get lost, so it is set once more.
		t.settled = true
		t.setIcon()
		systray.SetTooltip(t.tooltip)
	}
	t.face(m)
	t.refresh(m.menu(now))
}

// face shows the icon and the text beside it.
func (t *tray) face(m model) {
	if s := m.symbol(); s != t.symbol || t.tooltip == "" {
		t.symbol = s
		t.setIcon()
	}
	if s := m.tooltip(); s != t.tooltip {
		t.tooltip = s
		systray.SetTooltip(s)
	}
}

// setIcon shows the icon of the symbol. Package systray panics there, and only there, if the session bus has ended; then nobody
// sees the icon, and the desktop tells the program to quit. It also writes over the old picture while a reader may just be getting
// that, which the race detector finds; as all icons have the same size, the worst that comes of it is the wrong picture until the
// reader asks for the new one, as it has just been told to do.
func (t *tray) setIcon() {
	defer func() { _ = recover() }()
	systray.SetIcon(t.icons[t.symbol])
}

func (t *tray) refresh(entries []entry) {
	for _, e := range entries {
		if e.title != "" {
			t.update(e)
		}
		t.refresh(e.children)
	}
}

// update changes an item to what an entry says.
func (t *tray) update(e entry) {
	item, old := t.items[e.id], t.entries[e.id]
	if e.title != old.title {
		item.SetTitle(label(e.title))
	}
	if e.checked != old.checked {
		if e.checked {
			item.Check()
		} else {
			item.Uncheck()
		}
	}
	if e.disabled != old.disabled {
		if e.disabled {
			item.Disable()
		} else {
			item.Enable()
		}
	}
	if e.hidden != old.hidden {
		if e.hidden {
			item.Hide()
		} else {
			item.Show()
		}
	}
	e.children = nil
	t.entries[e.id] = e
}

// label returns a title in which no character stands for a key.
func label(title string) string {
	switch runtime.GOOS {
	case "windows":
		return strings.ReplaceAll(title, "&", "&&")
	case "darwin":
		return title
	}
	return strings.ReplaceAll(title, "_", "__")
}
