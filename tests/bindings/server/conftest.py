from tests.bindings.server import page_use, running

client, live, server, openai_client = running.client, running.live, running.server, running.openai_client
browser, fake, page = page_use.browser, page_use.fake, page_use.page
