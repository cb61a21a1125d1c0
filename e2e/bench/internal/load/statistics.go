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

// Percentile is the p-th percentile of sorted values by the nearest-rank method. There must be a value.
func Percentile[T any](sorted []T, p int) T {
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}

// Median is the median of of(element) over all elements; of two middle values the lower one. There must be an element.
func Median[S any, T cmp.Ordered](all []S, of func(S) T) T {
	values := make([]T, len(all))
	for i, s := range all {
		values[i] = of(s)
	}
	slices.Sort(values)
	return Percentile(values, 50)
}

// Durations sorts took and returns its median and 99th percentile.
func Durations(took []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(took)
	return Percentile(took, 50), Percentile(took, 99)
}

// tick is the unit of times in /proc (USER_HZ, 100 a second on every Linux that Go runs on).
const tick = 10 * time.Millisecond

// ProcessorTime is the processor time that processes have used so far, in user and kernel mode. A process that has ended counts as 0.
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

// parseStat reads utime and stime, the 14th and 15th fields of /proc/PID/stat. It counts from the last parenthesis, because the second field is a
// name in parentheses that may contain blanks and parentheses.
func parseStat(data []byte) time.Duration {
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * tick
}
