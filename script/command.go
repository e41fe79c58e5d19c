package script

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Command takes a line apart as users write it behind --script: a program and its arguments, with blanks between them, and
// with quotes or a backslash around what has blanks of its own. Nothing else means anything: there is no shell, so no
// variables, pipes or patterns. A program without a slash is looked for in a fixed list of directories, those of the system.
func Command(line string) (path string, args []string, err error) {
	words, err := split(line)
	if err != nil {
		return "", nil, fmt.Errorf("script %q: %w", excerpt(line), err)
	}
	if len(words) == 0 {
		return "", nil, errors.New("script: there is no program in the line")
	}
	path, args = words[0], words[1:]
	if filepath.Base(path) == path {
		if path, err = find(path); err != nil {
			return "", nil, err
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", nil, fmt.Errorf("script: %w", err)
	}
	return path, args, nil
}

func find(name string) (string, error) {
	for _, dir := range filepath.SplitList(searchPath) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && executable(fi) {
			return p, nil
		}
	}
	return "", fmt.Errorf("script %q: %w in %s; give the whole path", excerpt(name), fs.ErrNotExist, searchPath)
}

// split cuts a line into words. A backslash is one of a path on Windows, unless it stands before a quote or another one.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote byte
	inWord := false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == 0:
			return nil, errors.New("a NUL byte")
		case c == '\\' && quote != '\'' && i+1 < len(line) && escapable(line[i+1]):
			i++
			word.WriteByte(line[i])
			inWord = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote that is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
