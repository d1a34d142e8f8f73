from tests.bindings.server import running

client = running.client
