package load

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// Percentile is the smallest of sorted values that at least p of a hundred don't exceed (nearest rank). There must be one.
func Percentile[T any](sorted []T, p int) T {
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}

// Median is that of what of takes from each element, the lower one of two. There must be an element.
func Median[S any, T cmp.Ordered](all []S, of func(S) T) T {
	values := make([]T, len(all))
	for i, s := range all {
		values[i] = of(s)
	}
	slices.Sort(values)
	return Percentile(values, 50)
}

// Durations sorts them and gives their median and 99th percentile.
func Durations(took []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(took)
	return Percentile(took, 50), Percentile(took, 99)
}

// tick is the unit of times in /proc (USER_HZ, 100 a second on every Linux that Go runs on).
const tick = 10 * time.Millisecond

// ProcessorTime is what processes have used of the processors so far, in user and kernel mode. One that is gone counts as nothing.
func ProcessorTime(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		sum += parseStat(data)
	}
	return sum
}

// parseStat reads utime and stime, the 14th and 15th fields; the second is a name in parentheses that may contain anything.
func parseStat(data []byte) time.Duration {
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * tick
}
