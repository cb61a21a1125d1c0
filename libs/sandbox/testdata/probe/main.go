// Command probe is what the tests of sandbox run in a container. Its first argument says what it tries; it prints what
// came of it as one line of JSON, or text where the test is about text.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

var tries = map[string]func(args []string) any{
	"sleep":   sleep,
	"exit":    exit,
	"rights":  rights,
	"write":   write,
	"memory":  memory,
	"fork":    fork,
	"tmp":     tmp,
	"network": network,
	"calls":   calls,
	"cpu":     cpu,
	"echo":    echo,
	"lines":   lines,
	"self":    self,
}

func main() {
	result := tries[os.Args[1]](os.Args[2:])
	if result != nil {
		_ = json.NewEncoder(os.Stdout).Encode(result)
	}
}

// sleep waits for SIGTERM.
func sleep([]string) any {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println("stopped")
	return nil
}

func exit(args []string) any {
	code, _ := strconv.Atoi(args[0])
	os.Exit(code)
	return nil
}

// rights is who the process is and what it may, as the kernel says it.
func rights([]string) any {
	found := map[string]string{}
	for _, file := range []string{"/proc/self/status", "/proc/self/limits"} {
		text, err := os.ReadFile(file)
		if err != nil {
			found[file] = err.Error()
		}
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok {
				found[key] = strings.Join(strings.Fields(value), " ")
			} else if key, value, ok := strings.Cut(line, "  "); ok {
				found[key] = strings.Join(strings.Fields(value), " ")
			}
		}
	}
	found["hostname"], _ = os.Hostname()
	found["env"] = strings.Join(os.Environ(), " ")
	found["dir"], _ = os.Getwd()
	return found
}

// write tries to write a file in each folder.
func write(args []string) any {
	found := map[string]string{}
	for _, dir := range args {
		err := os.WriteFile(filepath.Join(dir, "probe"), []byte("x"), 0o600)
		found[dir] = text(err)
	}
	return found
}

func memory([]string) any {
	var kept [][]byte
	for range 1024 {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
	}
	return len(kept)
}

// fork starts children until it can't.
func fork([]string) any {
	for n := range 1000 {
		child := exec.Command("/proc/self/exe", "sleep")
		if err := child.Start(); err != nil {
			return map[string]any{"children": n, "error": err.Error(), "again": errors.Is(err, syscall.EAGAIN)}
		}
	}
	return map[string]any{"children": 1000}
}

// tmp fills /tmp with bytes, then with files, and tries to run something there.
func tmp([]string) any {
	found := map[string]any{}
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile("/tmp/probe", self, 0o755)
	}
	found["copied"] = text(err)
	found["run"] = text(exec.Command("/tmp/probe", "exit", "0").Run())
	_ = os.Remove("/tmp/probe")

	file, err := os.Create("/tmp/full")
	written := 0
	for block := make([]byte, 1<<20); err == nil; {
		var n int
		n, err = file.Write(block)
		written += n
	}
	found["bytes"], found["full"] = written, errors.Is(err, syscall.ENOSPC)
	_ = file.Close()
	_ = os.Remove("/tmp/full")

	files := 0
	for err = nil; err == nil && files < 1_000_000; files++ {
		err = os.WriteFile("/tmp/"+strconv.Itoa(files), nil, 0o600)
	}
	found["files"], found["files_full"] = files, errors.Is(err, syscall.ENOSPC)
	return found
}

// network lists the interfaces and dials an address that is nobody's (RFC 5737), which no network here leads to.
func network([]string) any {
	found := map[string]any{}
	var names []string
	all, err := net.Interfaces()
	for _, i := range all {
		names = append(names, i.Name)
	}
	found["interfaces"], found["error"] = names, text(err)
	routes, _ := os.ReadFile("/proc/net/route")
	found["routes"] = strings.Count(string(routes), "\n") - 1 // but its title
	if len(names) == 1 {
		_, err = net.DialTimeout("tcp", "192.0.2.1:80", time.Second)
		found["unreachable"] = errors.Is(err, syscall.ENETUNREACH)
	}
	return found
}

// calls makes a socket of each family, connected to nothing, and other system calls that have led out of containers.
func calls([]string) any {
	found := map[string]string{}
	for family := 1; family < 50; family++ {
		refused := true
		var last error
		for _, kind := range []int{syscall.SOCK_STREAM, syscall.SOCK_DGRAM, syscall.SOCK_SEQPACKET, syscall.SOCK_RAW} {
			fd, err := syscall.Socket(family, kind, 0)
			if err == nil {
				_ = syscall.Close(fd)
			}
			refused = refused && err == syscall.EPERM
			last = err
		}
		if !refused {
			found["socket "+strconv.Itoa(family)] = text(last)
		}
	}
	for name, call := range map[string][3]uintptr{
		"io_uring_setup": {unix.SYS_IO_URING_SETUP, 1}, "userfaultfd": {unix.SYS_USERFAULTFD}, "bpf": {unix.SYS_BPF},
		"perf_event_open": {unix.SYS_PERF_EVENT_OPEN}, "add_key": {unix.SYS_ADD_KEY}, "keyctl": {unix.SYS_KEYCTL},
		"unshare": {unix.SYS_UNSHARE, unix.CLONE_NEWUSER}, "setns": {unix.SYS_SETNS}, "mount": {unix.SYS_MOUNT},
		"umount": {unix.SYS_UMOUNT2}, "pivot_root": {unix.SYS_PIVOT_ROOT}, "init_module": {unix.SYS_INIT_MODULE},
		"open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT}, "kexec_load": {unix.SYS_KEXEC_LOAD}, "reboot": {unix.SYS_REBOOT},
		"swapon": {unix.SYS_SWAPON}, "acct": {unix.SYS_ACCT}, "settimeofday": {unix.SYS_SETTIMEOFDAY}, "quotactl": {unix.SYS_QUOTACTL},
		"personality": {unix.SYS_PERSONALITY, 0x0040000}, // ADDR_NO_RANDOMIZE
	} {
		if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], 0); errno != syscall.EPERM {
			found[name] = errno.Error()
		}
	}
	return found
}

// cpu spins on four threads for a second and gives the milliseconds of processor time that took.
func cpu([]string) any {
	runtime.GOMAXPROCS(4)
	end := time.Now().Add(time.Second)
	for range 3 {
		go func() {
			for time.Now().Before(end) {
			}
		}()
	}
	for time.Now().Before(end) {
	}
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return (usage.Utime.Nano() + usage.Stime.Nano()) / 1e6
}

// echo answers each frame of stdin on stdout, says its length on stderr, and ends with stdin.
func echo([]string) any {
	for {
		var head [4]byte
		if _, err := io.ReadFull(os.Stdin, head[:]); err != nil {
			fmt.Fprintln(os.Stderr, "end")
			return nil
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(os.Stdin, body); err != nil {
			fmt.Fprintln(os.Stderr, "half a frame")
			return nil
		}
		fmt.Fprintln(os.Stderr, len(body))
		_, _ = os.Stdout.Write(append(head[:], body...))
	}
}

// lines prints n lines, each second one to stderr, one of 200,000 bytes, and one without an end.
func lines(args []string) any {
	n, _ := strconv.Atoi(args[0])
	for i := range n {
		out := os.Stdout
		if i%2 == 1 {
			out = os.Stderr
		}
		fmt.Fprintf(out, "line %d\n", i)
	}
	fmt.Println(strings.Repeat("x", 200_000))
	fmt.Print("no end")
	return nil
}

// self is what the sandbox finds out about the container it runs in, over the Docker socket mounted there.
func self(args []string) any {
	ctx := context.Background()
	engine, err := sandbox.Connect(ctx, sandbox.Config{Host: "unix:///docker.sock"})
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	found := map[string]string{}
	found["instance"], err = engine.Instance(ctx)
	found["error"] = text(err)
	for _, name := range args {
		host, err := engine.HostPath(ctx, name)
		if err != nil {
			host = "error: " + err.Error()
		}
		found[name] = host
	}
	for name, mount := range map[string]sandbox.Mount{
		"create":   {Source: "/tree/pack", Target: "/pack"},
		"link":     {Source: "/tree/link", Target: "/pack"},
		"socket":   {Source: "/docker.sock", Target: "/pack"},
		"readonly": {Source: "/tree/pack", Target: "/pack", Writable: true},
		"unknown":  {Source: "/nowhere", Target: "/pack"},
	} {
		_, err := engine.Create(ctx, sandbox.Spec{Kind: sandbox.Pack, Name: "inner-" + name, Image: os.Getenv("PROBE_IMAGE"),
			Command: []string{"/probe", "write", "/pack"}, Mounts: []sandbox.Mount{mount}})
		found[name] = text(err)
	}
	return found
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
