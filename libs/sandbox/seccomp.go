package sandbox

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// socketFamilies are the address families that untrusted code may use. The others are kernel code that it has no need of, and some don't
// stop at a network namespace: AF_VSOCK leads from a container without a network to the hypervisor of the machine.
var socketFamilies = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// SystemCalls returns the seccomp profile of every container, as JSON for Docker. Tests compare it with what the engine reports.
func SystemCalls() (string, error) { return systemCalls() }

// systemCalls is the seccomp profile: Docker's newest default, whatever the engine's age, since the default of 20.10 allows AF_VSOCK and
// io_uring. It differs from that default twice. socket(2) is allowed for the families above only. And only the machine's own ABI is
// allowed: in 32-bit ABIs a socket can be made by socketcall(2), which passes the family in memory, where seccomp can't see it.
var systemCalls = sync.OnceValues(func() (string, error) {
	p := seccomp.DefaultProfile()
	for i := range p.ArchMap {
		p.ArchMap[i].SubArches = nil
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(s *seccomp.Syscall) bool {
		s.Names = slices.DeleteFunc(s.Names, func(name string) bool { return name == "socket" || name == "socketcall" })
		return len(s.Names) == 0
	})
	for _, family := range socketFamilies {
		p.Syscalls = append(p.Syscalls, &seccomp.Syscall{LinuxSyscall: specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: family, Op: specs.OpEqualTo}},
		}})
	}
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode seccomp profile: %w", err)
	}
	return string(text), nil
})
