from tests.bindings.server import running

client, live, server, openai_client = running.client, running.live, running.server, running.openai_client
