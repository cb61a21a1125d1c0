// Package table prints measurements beside their goals.
package table

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Unit is the unit of a number.
type Unit int

// The units of a table.
const (
	PerSecond Unit = iota // operations a second
	Seconds               // durations
	Bytes                 // memory
	Flow                  // bytes a second
)

// higher reports whether a higher number is better.
func (u Unit) higher() bool { return u == PerSecond || u == Flow }

// Format formats a number for a reader, with about three digits.
func (u Unit) Format(v float64) string {
	switch u {
	case PerSecond:
		return thousands(v) + "/s"
	case Seconds:
		return duration(v)
	case Bytes:
		return size(v)
	default:
		return size(v) + "/s"
	}
}

func thousands(v float64) string {
	switch {
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	}
	n := int64(math.Round(v))
	if n >= 10000 {
		n = (n + 50) / 100 * 100
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return short(seconds*1e3) + " ms"
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", seconds*1e3)
	default:
		return short(seconds) + " s"
	}
}

// short formats a number with two decimals at most.
func short(v float64) string {
	return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
}

// size formats bytes with decimal prefixes (1 kB is 1000 bytes), as design.md's goals.
func size(v float64) string {
	switch {
	case v < 1e6:
		return fmt.Sprintf("%.0f kB", v/1e3)
	case v < 1e8:
		return fmt.Sprintf("%.1f MB", v/1e6)
	case v < 1e9:
		return fmt.Sprintf("%.0f MB", v/1e6)
	default:
		return fmt.Sprintf("%.2f GB", v/1e9)
	}
}

// Goal is the goal for a number. The zero value is no goal.
type Goal struct {
	Bound float64 // the minimum of a rate, the maximum of a duration or of memory; 0 is no bound
	Ratio float64 // ours divided by theirs: the minimum for rates, the maximum for durations and memory; 0 is no bound
}

// text describes the goal of a row of unit u. beside names the contestant of Ratio.
func (g Goal) text(u Unit, beside string) string {
	var parts []string
	bound, ratio := "under ", "at most "
	if u.higher() {
		bound, ratio = "at least ", "at least "
	}
	if g.Bound > 0 {
		parts = append(parts, bound+u.Format(g.Bound))
	}
	if g.Ratio > 0 {
		if len(parts) > 0 {
			ratio = ""
		}
		parts = append(parts, ratio+strings.TrimSuffix(fmt.Sprintf("%.2f", g.Ratio), "0")+" × "+beside)
	}
	return strings.Join(parts, " and ")
}

// Row is one line of the table.
type Row struct {
	Path      string
	Unit      Unit
	Goal      Goal
	Ours      float64
	OursMore  string  // printed after the number
	Beside    string  // the contestant of the same run; "" for none
	Theirs    float64 // the contestant's number; 0 if it isn't installed
	Missing   string  // why Ours wasn't measured; "" if it was
	Published string  // figures that were measured elsewhere
}

// Verdicts of rows.
const (
	Reached     = "reached"
	Missed      = "MISSED"
	NotCompared = "not compared"
	NotMeasured = "not measured"
)

// Verdict says whether the goal was reached; "" if there is none.
func (r Row) Verdict() string {
	switch {
	case r.Missing != "":
		return NotMeasured
	case r.Goal == Goal{}:
		return ""
	case r.Goal.Bound > 0 && !r.meets(r.Ours, r.Goal.Bound):
		return Missed
	case r.Goal.Ratio > 0 && r.Theirs == 0:
		return NotCompared
	case r.Goal.Ratio > 0 && !r.meets(r.Ours, r.Goal.Ratio*r.Theirs):
		return Missed
	}
	return Reached
}

func (r Row) meets(v, bound float64) bool {
	if r.Unit.higher() {
		return v >= bound
	}
	return v <= bound
}

// cells are the columns of a row.
func (r Row) cells() []string {
	ours, theirs, ratio := r.Unit.Format(r.Ours), "", ""
	if r.OursMore != "" {
		ours += " " + r.OursMore
	}
	if r.Missing != "" {
		ours = r.Missing
	}
	if r.Beside != "" {
		theirs = r.Beside + ": not here"
		if r.Theirs > 0 {
			theirs = r.Beside + " " + r.Unit.Format(r.Theirs)
		}
	}
	if r.Theirs > 0 && r.Missing == "" {
		ratio = fmt.Sprintf("%.2f", r.Ours/r.Theirs)
	}
	return []string{r.Path, r.Goal.text(r.Unit, r.Beside), ours, theirs, ratio, r.Verdict(), r.Published}
}

// Print writes rows as one table with a heading, and below it a line with the number of each verdict.
func Print(w io.Writer, rows []Row) error {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	heading := []string{"path", "goal", "ours", "beside it, same run", "ratio", "verdict", "published (not run here)"}
	rule := make([]string, len(heading))
	for i, h := range heading {
		rule[i] = strings.Repeat("-", len(h))
	}
	fmt.Fprintln(t, strings.Join(heading, "\t"))
	fmt.Fprintln(t, strings.Join(rule, "\t"))
	counts := map[string]int{}
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r.cells(), "\t"))
		counts[r.Verdict()]++
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
	_, err := fmt.Fprintf(w, "\n%d reached, %d missed, %d not compared, %d not measured. ratio is ours divided by theirs: for rates more is better, for times and memory less.\n",
		counts[Reached], counts[Missed], counts[NotCompared], counts[NotMeasured])
	return err
}
