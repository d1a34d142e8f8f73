from tests.bindings.server import running

client, live = running.client, running.live
