package script

import (
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
)

// A User is whose rights a program has.
type User struct {
	// UID and GID are the numbers of the user and the group, Groups those of all groups.
	UID, GID uint32
	Groups   []uint32
	// Name and Home tell the program who and where it is; they may be empty.
	Name, Home string
}

// LookupUser returns the user of this name. Systems whose users have no numbers are not supported.
func LookupUser(name string) (*User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("the groups of %s: %w", name, err)
	}
	numbers := make([]uint32, 0, len(ids)+2)
	for _, id := range append([]string{u.Uid, u.Gid}, ids...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("the user %s: %q is not a number", name, id)
		}
		numbers = append(numbers, uint32(n))
	}
	home := u.HomeDir
	if !filepath.IsAbs(home) {
		home = ""
	}
	return &User{UID: numbers[0], GID: numbers[1], Groups: numbers[2:], Name: u.Username, Home: home}, nil
}

// environ returns what tells a program who and where it is. Nil is this process, of which nothing is told.
func (u *User) environ() []string {
	home, name := "/", ""
	if u != nil {
		name = u.Name
		if u.Home != "" {
			home = u.Home
		}
	}
	env := []string{"PATH=" + searchPath, "LANG=C.UTF-8", "HOME=" + home}
	if name != "" {
		env = append(env, "USER="+name, "LOGNAME="+name)
	}
	return env
}
