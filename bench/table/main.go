// Table prints what the ladder of benchmarks has measured as tables in Markdown. It reads the output of
//
//	go test -bench . -count N ./bench
//
// from the files named, or from standard input, and prints medians over all that it finds. How many values there were,
// and how far apart, is said as well.
//
//	go run ./bench/table [-title text] [file ...]
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	title := flag.String("title", "The ladder", "the heading of the page")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: table [-title text] [file ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := run(os.Stdout, *title, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

// run prints the page of the measurements in the files, or in standard input if there are none.
func run(w io.Writer, title string, files []string) error {
	r := newResults()
	if len(files) == 0 {
		if err := r.read(os.Stdin); err != nil {
			return err
		}
	}
	for _, name := range files {
		if err := readFile(r, name); err != nil {
			return err
		}
	}
	if len(r.order) == 0 {
		return errors.New("no measurement of the ladder in the input")
	}
	out := bufio.NewWriter(w)
	r.print(out, title)
	return out.Flush()
}

func readFile(r *results, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.read(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
