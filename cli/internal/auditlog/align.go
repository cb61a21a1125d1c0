package auditlog

import (
	"slices"
	"sort"
)

// difference is one way in which lines differ from the sealed ones. Lines are numbered from 0 within what was aligned.
type difference struct {
	kind   Kind // Changed, Missing, Moved or Inserted
	sealed int  // the sealed line; for Inserted the one before which the lines are
	line   int  // the line of the file; for Missing the one before which the lines were
	lines  int  // how many
	copyOf int  // for Inserted: the sealed line that it is a copy of; -1 if none
}

// anchor is a pair of equal lines, in the same order in both.
type anchor struct{ sealed, line int }

// align finds what was done to sealed lines so that they became lines: the fewest lines are called moved, changed or missing. The
// anchors are returned, too, since what comes after the last one may be explained by lines that weren't given.
func align(sealed, lines []hash) (differences []difference, anchors []anchor) {
	found := locate(sealed, lines)
	anchors = increasing(found)
	present := make([]bool, len(sealed)) // somewhere, if not at its place
	for _, at := range found {
		if at >= 0 {
			present[at] = true
		}
	}
	anchored := make([]bool, len(lines))
	for _, a := range anchors {
		anchored[a.line] = true
	}
	for i, at := range found {
		if at >= 0 && !anchored[i] {
			differences = append(differences, difference{kind: Moved, sealed: at, line: i, lines: 1})
		}
	}
	first := occurrences(sealed)
	last := anchor{-1, -1}
	for _, a := range append(slices.Clone(anchors), anchor{len(sealed), len(lines)}) {
		var missing, foreign []int
		for i := last.sealed + 1; i < a.sealed; i++ {
			if !present[i] {
				missing = append(missing, i)
			}
		}
		for i := last.line + 1; i < a.line; i++ {
			if found[i] < 0 {
				foreign = append(foreign, i)
			}
		}
		differences = append(differences, between(missing, foreign, a, func(line int) int {
			if at := first[lines[line]]; len(at) > 0 {
				return at[0]
			}
			return -1
		})...)
		last = a
	}
	slices.SortStableFunc(differences, func(a, b difference) int { return a.line - b.line })
	return differences, anchors
}

// between pairs sealed lines that are missing between two anchors with lines that were never sealed: as many as there are of both were
// changed. The others are missing, or inserted.
func between(missing, foreign []int, before anchor, copyOf func(line int) int) (differences []difference) {
	for len(missing) > 0 && len(foreign) > 0 {
		differences = append(differences, difference{kind: Changed, sealed: missing[0], line: foreign[0], lines: 1})
		missing, foreign = missing[1:], foreign[1:]
	}
	for _, at := range missing {
		differences = append(differences, difference{kind: Missing, sealed: at, line: before.line, lines: 1})
	}
	for _, at := range foreign {
		differences = append(differences, difference{kind: Inserted, sealed: before.sealed, line: at, lines: 1, copyOf: copyOf(at)})
	}
	return differences
}

// occurrences is where each hash is.
func occurrences(of []hash) map[hash][]int {
	at := make(map[hash][]int, len(of))
	for i, h := range of {
		at[h] = append(at[h], i)
	}
	return at
}

// locate is for each line where it is among the sealed ones; -1 if nowhere. Of equal lines, such as empty ones, the first is the first, but
// for those that both begin or end with.
func locate(sealed, lines []hash) []int {
	found := make([]int, len(lines))
	begin, end := 0, 0 // how many are equal at the beginning and at the end
	for shorter := min(len(sealed), len(lines)); begin < shorter && sealed[begin] == lines[begin]; begin++ {
		found[begin] = begin
	}
	for begin+end < min(len(sealed), len(lines)) && sealed[len(sealed)-1-end] == lines[len(lines)-1-end] {
		end++
		found[len(lines)-end] = len(sealed) - end
	}
	at := occurrences(sealed[begin : len(sealed)-end])
	for i := begin; i < len(lines)-end; i++ {
		h := lines[i]
		found[i] = -1
		if left := at[h]; len(left) > 0 {
			found[i], at[h] = begin+left[0], left[1:]
		}
	}
	return found
}

// increasing is a longest sequence of lines whose sealed ones are in the same order.
func increasing(found []int) []anchor {
	var ends []int                    // ends[n] is the line that ends the best sequence of n+1 lines
	before := make([]int, len(found)) // the line before it in its sequence, or -1
	for i, at := range found {
		if at < 0 {
			continue
		}
		n := sort.Search(len(ends), func(n int) bool { return found[ends[n]] >= at })
		before[i] = -1
		if n > 0 {
			before[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		} else {
			ends[n] = i
		}
	}
	anchors := make([]anchor, len(ends))
	if len(ends) == 0 {
		return anchors
	}
	for i, n := ends[len(ends)-1], len(ends)-1; n >= 0; i, n = before[i], n-1 {
		anchors[n] = anchor{found[i], i}
	}
	return anchors
}
