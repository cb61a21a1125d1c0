package clientaddr

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"strings"
)

// DefaultGateway reads from /proc/net/route the address that this process' default route leads to: in a container of a bridge network, the host's
// address in that network. Docker's proxy for published ports connects from it.
func DefaultGateway() (netip.Addr, error) {
	table, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return netip.Addr{}, err
	}
	return defaultGateway(string(table))
}

// defaultGateway finds the gateway of destination 0.0.0.0 in a table of the form of proc_net_route(5): numbers in hexadecimal, in the host's
// byte order.
func defaultGateway(table string) (netip.Addr, error) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 8 || fields[1] != "00000000" || fields[7] != "00000000" {
			continue
		}
		raw, err := hex.DecodeString(fields[2])
		if err != nil || len(raw) != 4 || fields[2] == "00000000" {
			continue
		}
		var address [4]byte
		binary.NativeEndian.PutUint32(address[:], binary.BigEndian.Uint32(raw))
		return netip.AddrFrom4(address), nil
	}
	return netip.Addr{}, errors.New("this container has no default route")
}
