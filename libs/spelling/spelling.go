// Package spelling finds the known name that a misspelt one may stand for, for error messages.
package spelling

// maxMistakes is how many letters may have been put in, left out or changed.
const maxMistakes = 2

// Hint suggests the known name that a misspelt one is likely to be: " (RUMI_HOME?)", or "" where none is near.
func Hint(name string, known []string) string {
	if best := Nearest(name, known, func(s string) string { return s }); best != "" {
		return " (" + best + "?)"
	}
	return ""
}

// Nearest returns the known name nearest to a misspelt one; "" if none has at most two mistakes, and fewer than half of its letters.
// plain is applied to both names before they are compared, to drop differences that don't count, such as case.
func Nearest(name string, known []string, plain func(string) string) string {
	best, least := "", maxMistakes+1
	for _, k := range known {
		if d := distance(plain(name), plain(k)); d < least && d < len(k)/2 {
			best, least = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b, in bytes. It takes the product of their lengths: callers clip strangers' names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
