package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The events that are asked of the kernel. Reading, and opening for reading, raise none of them. IN_CLOSE_WRITE is there for writes
// through a memory mapping: these raise no event themselves, but the end of the mapping does.
const (
	contentMask = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	folderMask  = contentMask | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR
)

// queue is one inotify instance. All its watches report into one queue, in the order in which things happened.
type queue struct {
	file    *os.File
	buf     []byte
	fenceFD int // a file in memory that no pack has; see fence

	initErr    error    // why there is no inotify instance: nothing can be watched, and file is a pipe that nobody writes to
	pipeWriter *os.File // the other end of that pipe
}

// event is one entry of the queue.
type event struct {
	wd   int
	mask uint32
	name string // in the watched folder; "" for the watched thing itself
}

func newQueue() (*queue, error) {
	fenceFD, err := unix.MemfdCreate("rumi-watch", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	q := &queue{buf: make([]byte, 64<<10), fenceFD: fenceFD}
	fd, err := inotifyInit(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil { // most often EMFILE: other programs of the user have all instances that the kernel allows
		q.initErr = os.NewSyscallError("inotify_init1", err)
		if q.file, q.pipeWriter, err = os.Pipe(); err != nil {
			return nil, errors.Join(err, unix.Close(fenceFD))
		}
		return q, nil
	}
	q.file = os.NewFile(uintptr(fd), "inotify")
	return q, nil
}

// inotifyInit and inotifyAdd are variables so that tests can make them fail.
var (
	inotifyInit = unix.InotifyInit1
	inotifyAdd  = unix.InotifyAddWatch
)

// close closes the instance, and ends a read that is under way.
func (q *queue) close() error {
	err := errors.Join(q.file.Close(), unix.Close(q.fenceFD))
	if q.pipeWriter != nil {
		err = errors.Join(err, q.pipeWriter.Close())
	}
	return err
}

// control runs call with the instance's file descriptor, which can't be closed meanwhile.
func (q *queue) control(call func(fd int) error) error {
	raw, err := q.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = call(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// add watches the folder or file that a descriptor is open on: that very one, whatever its name is by now. A path could be
// replaced between the scan and the watch.
func (q *queue) add(open int, mask uint32) (wd int, err error) {
	if q.initErr != nil {
		return 0, q.initErr
	}
	err = q.control(func(fd int) (err error) {
		wd, err = inotifyAdd(fd, fmt.Sprintf("/proc/self/fd/%d", open), mask)
		return err
	})
	return wd, err
}

// remove ends a watch. One that the kernel has ended already is no error.
func (q *queue) remove(wd int) {
	_ = q.control(func(fd int) error {
		_, err := unix.InotifyRmWatch(fd, uint32(wd))
		return err
	})
}

// fence puts an entry of its own at the end of the queue: whatever is read before it happened before the call. The entry is the
// IN_IGNORED event that the end of a watch leaves in the queue, so that nothing has to be written to any folder. (Watchman's
// cookie files are the same idea: https://facebook.github.io/watchman/docs/cookies) remember gets the watch descriptor before
// the entry can be read; the caller must note it there.
func (q *queue) fence(remember func(wd int)) error {
	wd, err := q.add(q.fenceFD, unix.IN_DELETE_SELF)
	if err != nil {
		return err
	}
	remember(wd)
	q.remove(wd)
	return nil
}

// read waits for entries and returns them in into. The slice is valid until the next call.
func (q *queue) read(into []event) ([]event, error) {
	n, err := q.file.Read(q.buf)
	if err != nil {
		return nil, err
	}
	for data := q.buf[:n]; len(data) >= unix.SizeofInotifyEvent; {
		e := event{wd: int(int32(binary.NativeEndian.Uint32(data))), mask: binary.NativeEndian.Uint32(data[4:])}
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(data[12:]))
		e.name = strings.TrimRight(string(data[unix.SizeofInotifyEvent:end]), "\x00")
		into = append(into, e)
		data = data[end:]
	}
	return into, nil
}
