package server

import (
	"crypto/tls"
	"net"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc/tlsbatch"
)

// Listener admits holders of a certificate of the same authority on l.
func Listener(l net.Listener, id *identity.Identity) net.Listener {
	return tls.NewListener(tlsbatch.Listener(l), id.Server())
}
