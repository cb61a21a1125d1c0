package auditlog

import (
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// nice is the priority of the sealer: where processors are scarce the services come first, and it catches up later.
const nice = 15

// LowerPriority makes this process yield to others. Linux has a priority for each thread; threads that are made later inherit it.
func LowerPriority(log *slog.Logger) {
	threads, err := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		if e := unix.Setpriority(unix.PRIO_PROCESS, id, nice); e != nil {
			err = e
		}
	}
	if err != nil {
		log.Warn("the sealer's priority can't be lowered", "error", err.Error())
	}
}
