package client

import (
	"context"
	"net"
	"net/netip"

	"github.com/rumi-ai/rumi/libs/identity"
)

// Secure makes a connection that is open one to the service name.
func Secure(ctx context.Context, raw net.Conn, id *identity.Identity, name string) error {
	_, _, err := securing{name, Config{Identity: id}}.handshake(ctx, raw)
	return err
}

// SetLookup has names resolved by f until the function that it gives is called.
func SetLookup(f func(ctx context.Context, network, host string) ([]netip.Addr, error)) (restore func()) {
	before := lookupIP
	lookupIP = f
	return func() { lookupIP = before }
}
