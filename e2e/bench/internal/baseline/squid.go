package baseline

import (
	"context"
	"fmt"
	"path/filepath"
)

// Squid runs squid as a forward proxy that allows one host at one port. For a fair comparison it keeps an access log, as Rumi keeps an audit log;
// it caches nothing, asks no other server, and tells upstreams nothing about clients, as Rumi.
func Squid(ctx context.Context, dir, host string, port int) (*Tool, error) {
	return start(ctx, "squid", dir, []string{"-N", "-f", filepath.Join(dir, "config")}, nil, func(address string) string {
		return fmt.Sprintf(`http_port %s
acl host dstdomain %s
acl port port %d
http_access allow host port
http_access deny all
cache deny all
access_log stdio:%[4]s/access.log
cache_log %[4]s/cache.log
pid_filename %[4]s/squid.pid
coredump_dir %[4]s
visible_hostname bench
pinger_enable off
netdb_filename none
forwarded_for delete
via off
shutdown_lifetime 0 seconds
max_filedescriptors 16384
`, address, host, port, dir)
	})
}
