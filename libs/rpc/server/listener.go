package server

import (
	"crypto/tls"
	"net"

	"github.com/rumi-ai/rumi/libs/identity"
)

// Listener admits holders of a certificate of the same authority on l.
func Listener(l net.Listener, id *identity.Identity) net.Listener {
	return tls.NewListener(l, id.Server())
}
