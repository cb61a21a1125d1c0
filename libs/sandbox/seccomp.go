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

// socketFamilies are all that untrusted code may make a socket of. The others are kernel code it has no need of, and some
// don't stop at a network namespace: AF_VSOCK leads from a container without a network to the machine's hypervisor.
var socketFamilies = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// SystemCalls is the seccomp profile of every container, as Docker reads it.
func SystemCalls() (string, error) { return systemCalls() }

// systemCalls is the seccomp profile: Docker's newest default, whatever the engine's age (20.10's own
// allows AF_VSOCK and io_uring), with the families above and the machine's own ABI only, since socketcall(2) of the 32-bit
// ones hides the family from seccomp.
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
