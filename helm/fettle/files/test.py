"""What `helm test` runs in a pod: all replicas are ready, and the API answers to its key with its models."""

import json
import os
import socket
from urllib.request import Request, urlopen


def main() -> None:
    port = int(os.environ["OPS_PORT"])
    found = socket.getaddrinfo(os.environ["OPS_HOST"], port, type=socket.SOCK_STREAM)
    for host in sorted({address[0] for *_, address in found}):
        url = f"http://[{host}]:{port}/readyz" if ":" in host else f"http://{host}:{port}/readyz"
        print(url, urlopen(url, timeout=10).status)

    key = os.environ["API_KEYS"].split(",")[0].strip()
    request = Request(f"{os.environ['API_URL']}/v1/models", headers={"Authorization": f"Bearer {key}"})
    models = {model["id"] for model in json.load(urlopen(request, timeout=30))["data"]}
    print("models:", ", ".join(sorted(models)))
    if missing := set(os.environ["MODELS"].split()) - models:
        raise SystemExit(f"the API does not know {', '.join(sorted(missing))}")


main()
