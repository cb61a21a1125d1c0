package beside

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// Target is what a reverse proxy stands before.
type Target struct {
	Address string // host:port
	// For mutual TLS: the name on the server's certificate, and the folder with cert.pem, key.pem and ca.pem that the proxy
	// shows and trusts. Without a name the target speaks plain HTTP.
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
			tls_client_auth %[2]s/cert.pem %[2]s/key.pem
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
	tool, err := start(ctx, "nginx", dir, []string{"-p", dir, "-e", filepath.Join(dir, "error.log"), "-c", filepath.Join(dir, "config")}, nil, func(address string) string {
		scheme, tls := "http", ""
		if to.Name != "" {
			scheme = "https"
			tls = fmt.Sprintf(`
      proxy_ssl_name %s;
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_server_name on;
      proxy_ssl_verify on;
      proxy_ssl_certificate %[2]s/cert.pem;
      proxy_ssl_certificate_key %[2]s/key.pem;
      proxy_ssl_trusted_certificate %[2]s/ca.pem;`, to.Name, to.Identity)
		}
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
%s  upstream target {
    server %s;
    keepalive 64;
    keepalive_requests 1000000000;
  }
  server {
    listen %s;
    location / {
      proxy_pass %s://target;
      proxy_http_version 1.1;
      proxy_set_header Connection "";%s
    }
  }
}
`, dir, temp.String(), to.Address, address, scheme, tls)
	})
	if tool != nil {
		tool.workers = true
	}
	return tool, err
}
