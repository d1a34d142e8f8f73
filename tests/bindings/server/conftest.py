from tests.bindings.server import page_use, running

client, live = running.client, running.live
browser, fake, page = page_use.browser, page_use.fake, page_use.page
