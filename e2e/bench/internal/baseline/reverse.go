package baseline

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Target is the server behind a reverse proxy.
type Target struct {
	Address string // host:port
	// For mutual TLS: the name on the server's certificate, and the folder with the proxy's certificate and key (both in identity.pem) and the
	// authority that it trusts (ca.pem). Without a name the target speaks plain HTTP.
	Name     string
	Identity string
}

// Caddy runs Caddy as a bare reverse proxy: no logs, no checks.
func Caddy(ctx context.Context, dir string, to Target) (*Tool, error) {
	env := map[string]string{"HOME": dir, "XDG_CONFIG_HOME": dir, "XDG_DATA_HOME": dir}
	return start(ctx, "caddy", dir, []string{"run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "config")}, env, func(address string) string {
		_, port, _ := strings.Cut(address, ":") // any Host is served, as nginx does
		scheme, transport := "http", ""
		if to.Name != "" {
			scheme = "https"
			transport = fmt.Sprintf(`
			tls_server_name %s
			tls_client_auth %[2]s/identity.pem %[2]s/identity.pem
			tls_trusted_ca_certs %[2]s/ca.pem`, to.Name, to.Identity)
		}
		return fmt.Sprintf(`{
	admin off
	auto_https off
}
http://:%s {
	bind 127.0.0.1
	reverse_proxy %s://%s {
		transport http {
			keepalive_idle_conns_per_host 64%s
		}
	}
}
`, port, scheme, to.Address, transport)
	})
}

// Nginx runs nginx as a bare reverse proxy: no access log, no checks, a worker for each processor.
func Nginx(ctx context.Context, dir string, to Target) (*Tool, error) {
	return nginx(ctx, dir, func(address string) string {
		return fmt.Sprintf(`  upstream target {
    server %s;
    keepalive 64;
    keepalive_requests 1000000000;
  }
  server {
    listen %s;
    location / {
%s    }
  }
`, to.Address, address, to.pass("target"))
	})
}

// NginxUploads runs two nginx that receive files as Rumi does. The first one speaks plain HTTP with clients and passes each body on to the
// second one, over mutual TLS: through has its certificates, and its Address is set here. The second one has the identity in the folder
// server, and writes each file into the folder stored, by WebDAV's PUT. Their buffers are as large as Rumi's.
func NginxUploads(ctx context.Context, front, back string, through Target, server, stored string) (tools []*Tool, err error) {
	receiver, err := nginx(ctx, back, func(address string) string {
		return fmt.Sprintf(`  server {
    listen %s ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate %[2]s/identity.pem;
    ssl_certificate_key %[2]s/identity.pem;
    ssl_client_certificate %[2]s/ca.pem;
    ssl_verify_client on;
    client_max_body_size 0;
    client_body_buffer_size 128k;
    location / {
      root %[3]s;
      dav_methods PUT;
    }
  }
`, address, server, stored)
	})
	if err != nil {
		return nil, err
	}
	through.Address = receiver.Address
	sender, err := nginx(ctx, front, func(address string) string {
		return fmt.Sprintf(`  server {
    listen %s;
    client_max_body_size 0;
    client_body_buffer_size 128k;
    location / {
      proxy_request_buffering off;
%s    }
  }
`, address, through.pass(through.Address))
	})
	if err != nil {
		return nil, errors.Join(err, receiver.Stop())
	}
	return []*Tool{sender, receiver}, nil
}

// pass is the part of nginx's configuration that passes requests to a target, under a name for its upstream block.
func (to Target) pass(name string) string {
	scheme, tls := "http", ""
	if to.Name != "" {
		scheme = "https"
		tls = fmt.Sprintf(`      proxy_ssl_name %s;
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_server_name on;
      proxy_ssl_verify on;
      proxy_ssl_certificate %[2]s/identity.pem;
      proxy_ssl_certificate_key %[2]s/identity.pem;
      proxy_ssl_trusted_certificate %[2]s/ca.pem;
`, to.Name, to.Identity)
	}
	return fmt.Sprintf(`      proxy_pass %s://%s;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
%s`, scheme, name, tls)
}

// nginx runs nginx with the server blocks that servers makes for its address.
func nginx(ctx context.Context, dir string, servers func(address string) string) (*Tool, error) {
	tool, err := start(ctx, "nginx", dir, []string{"-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", filepath.Join(dir, "config")}, nil, func(address string) string {
		var temp strings.Builder
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			fmt.Fprintf(&temp, "  %s_temp_path %s/%s;\n", kind, dir, kind)
		}
		return fmt.Sprintf(`daemon off;
worker_processes auto;
pid %s/nginx.pid;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 1000000000;
%s%s}
`, dir, temp.String(), servers(address))
	})
	if tool != nil {
		tool.workers = true
	}
	return tool, err
}
