"""Code that has never heard of Rumi: reaches the network with the standard library alone."""

import os
import sys
import urllib.error
import urllib.request

names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
print("proxies", sorted({os.environ.get(name, "none") for name in names}))
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            print(url, response.status, response.read().decode())
    except urllib.error.HTTPError as error:
        print(url, error.code, error.read().decode())
    except OSError as error:
        print(url, getattr(error, "reason", error))
