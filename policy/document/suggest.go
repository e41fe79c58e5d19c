package document

import "strings"

// Nearest returns the candidate that s was probably meant to be, or "" if it is like none of them.
func Nearest(s string, candidates []string) string {
	best, distance := "", 1<<30
	for _, c := range candidates {
		if d := edits(s, c); d < distance && d <= tolerable(s, c) {
			best, distance = c, d
		}
	}
	return best
}

// near reports whether the one name may be a slip of the pen for the other.
func near(a, b string) bool { return edits(a, b) <= tolerable(a, b) }

// tolerable is how many slips of the pen are believed: a third of the shorter name, so that "Port" is not taken for "Pin".
func tolerable(a, b string) int { return min(len(a), len(b)) / 3 }

// edits returns how many letters must be inserted, dropped, exchanged or swapped with their neighbour to make b of a; capital
// and small letters are the same. Names too long for a comparison are infinitely far apart.
func edits(a, b string) int {
	const most = 64
	if len(a) > most || len(b) > most {
		return 1 << 30
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	var rows [3][2*most + 1]int // the two rows before and this one; lower case may be longer
	if len(a) > 2*most || len(b) > 2*most {
		return 1 << 30
	}
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
