package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/baseline"
	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// tunnelHost is the name that tunnels are opened to. A tunnel can't lead to an address: TLS has no server name for it.
const tunnelHost = "localhost"

// chunk is the size of a write and of a read, in bytes.
const chunk = 256 << 10

// tunnel measures the throughput of a tunnel from a server to a pack, beside a plain relay that checks nothing, and beside squid. A real
// ClientHello opens the tunnel. The bytes after it are not encrypted, so that the relays are compared, and not the machine's encryption.
func (b *bench) tunnel(ctx context.Context) (err error) {
	const pack = "bench-tunnel"
	if err := b.install(ctx, pack, nil); err != nil {
		return err
	}
	source, err := newSource()
	if err != nil {
		return err
	}
	defer source.Close()
	port := source.Addr().(*net.TCPAddr).Port
	if err := b.grantNetwork(ctx, pack, port, tunnelHost); err != nil {
		return err
	}
	relay, err := b.startSelf(ctx, "relay", source.Addr().String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, relay.Stop()) }()
	dir, err := b.suite.Dir("squid")
	if err != nil {
		return err
	}
	contestants := []func() (net.Conn, error){
		func() (net.Conn, error) { return connect("unix", b.suite.Socket("egress", pack), port) },
		func() (net.Conn, error) { return net.Dial("tcp", relay.Address) },
	}
	squid, err := baseline.Squid(ctx, dir, tunnelHost, port)
	if err == nil {
		defer func() { err = errors.Join(err, squid.Stop()) }()
		contestants = append(contestants, func() (net.Conn, error) { return connect("tcp", squid.Address, port) })
	} else if !errors.Is(err, baseline.ErrAbsent) {
		return err
	}

	rates := make([][]float64, 3)
	for range b.scale.rounds {
		for i, dial := range contestants {
			r, err := b.receive(ctx, dial)
			if err != nil {
				return err
			}
			rates[i] = append(rates[i], r)
		}
	}
	median := func(i int) float64 {
		if len(rates[i]) == 0 {
			return 0
		}
		return load.Median(rates[i], func(v float64) float64 { return v })
	}
	row := table.Row{Path: "tunnel, one, towards the pack", Unit: table.Flow, Goal: table.Goal{Ratio: 0.7}, Ours: median(0), Beside: "plain TCP relay", Theirs: median(1)}
	b.row(row)
	row.Goal, row.Beside, row.Theirs = table.Goal{}, "squid", median(2)
	b.row(row)
	return nil
}

// receive returns the throughput of a connection in bytes a second. The measurement begins after the first chunk.
func (b *bench) receive(ctx context.Context, dial func() (net.Conn, error)) (float64, error) {
	conn, err := dial()
	if err != nil {
		return 0, fmt.Errorf("measure a tunnel: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(b.scale.each + 10*time.Second)); err != nil {
		return 0, err
	}
	hello, err := clientHello(tunnelHost)
	if err == nil {
		_, err = conn.Write(hello)
	}
	buf := make([]byte, chunk)
	if err == nil {
		_, err = io.ReadFull(conn, buf)
	}
	var total int
	began := time.Now()
	for err == nil && time.Since(began) < b.scale.each && ctx.Err() == nil {
		var n int
		n, err = conn.Read(buf)
		total += n
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return 0, fmt.Errorf("measure a tunnel: %w", err)
	}
	return float64(total) / time.Since(began).Seconds(), nil
}

// connect opens a tunnel to tunnelHost through a proxy.
func connect(network, address string, port int) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	if _, err = fmt.Fprintf(conn, "CONNECT %s:%[2]d HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", tunnelHost, port); err == nil {
		var answer *http.Response
		// The server sends nothing before the ClientHello, so the buffered reader holds no bytes of the tunnel.
		//nolint:bodyclose // after an answer to CONNECT comes the tunnel, not a body
		if answer, err = http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodConnect}); err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("open a tunnel: answered %s", answer.Status)
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// clientHello returns the first record that a TLS client sends to a server of that name.
func clientHello(name string) ([]byte, error) {
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: name}).Handshake() // ends with far
		near.Close()
	}()
	return readRecord(far)
}

// readRecord reads one TLS record (RFC 8446, 5.1).
func readRecord(r io.Reader) ([]byte, error) {
	record := make([]byte, 5, 4<<10)
	if _, err := io.ReadFull(r, record); err != nil {
		return nil, fmt.Errorf("read a TLS record: %w", err)
	}
	record = append(record, make([]byte, binary.BigEndian.Uint16(record[3:]))...)
	if _, err := io.ReadFull(r, record[5:]); err != nil {
		return nil, fmt.Errorf("read a TLS record: %w", err)
	}
	return record, nil
}

// newSource starts a server that reads a ClientHello and then sends zeros until the client closes the connection.
func newSource() (net.Listener, error) {
	return serve("127.0.0.1:0", func(conn net.Conn) {
		if _, err := readRecord(conn); err != nil {
			return
		}
		for buf := make([]byte, chunk); ; {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	})
}
