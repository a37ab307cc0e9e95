"""Node's clients: fetch (undici) and http.Agent."""

from __future__ import annotations

import json

import pytest

PRELUDE = """
import assert from 'node:assert/strict';
import http from 'node:http';
const url = process.argv[1];
const large = Buffer.alloc(5_000_000, 'abcdefghijklmnopqrstuvwxyz');
const bytes = async (r) => Buffer.from(await r.arrayBuffer());
// What a request of the module http got: its status and its body.
const request = (path, options = {}, body = '') => new Promise((resolve, reject) => {
  const call = http.request(url + path, options, (r) => {
    const pieces = [];
    r.on('data', (piece) => pieces.push(piece));
    r.on('error', reject);
    r.on('end', () => resolve({status: r.statusCode, body: Buffer.concat(pieces)}));
  });
  call.on('error', reject);
  if (options.headers?.Expect) call.on('continue', () => call.end(body)).flushHeaders();
  else call.end(body);
});
"""


@pytest.fixture
def node(app, tool):
    """node(source): what a module prints, as JSON, run against the app, which must stay quiet."""

    def run(source: str):
        out = tool("node", "--input-type=module", "-e", PRELUDE + source, app.url)
        return json.loads(out or "null")

    yield run
    app.until(connections=1, active=1)
    assert app.stop() == (0, "")


def test_fetch_gets_and_posts(node):
    stats = node("""
        for (let i = 0; i < 50; i++) {
          const hello = await fetch(url + '/hello');
          assert.equal(hello.status, 200);
          assert.match(hello.headers.get('content-type'), /^text\\/plain/);
          assert.equal(await hello.text(), 'Hello, World');
          const form = new URLSearchParams([['a', 'é&='], ['b', '1'], ['b', `${i}`]]);
          const posted = await fetch(url + '/form', {method: 'POST', body: form});
          assert.deepEqual(await posted.json(), {a: ['é&='], b: ['1', `${i}`]});
          const missing = await fetch(url + '/nowhere');
          assert.equal(missing.status, 404);
          await missing.text();
        }
        const stats = await (await fetch(url + '/stats')).text();
        const head = await fetch(url + '/hello', {method: 'HEAD'}); // it closes after one
        assert.equal(head.headers.get('content-length'), '12');
        console.log(stats);
    """)
    assert stats["requests"] >= 149  # the last one is counted after its response
    # Its pool opens another where the last response is not quite over.
    assert stats["accepted"] < 20


def test_fetch_streams_both_ways(node):
    node("""
        const upload = () => new ReadableStream({
          at: 0,
          pull(controller) {
            if (this.at >= large.length) return controller.close();
            controller.enqueue(large.subarray(this.at, this.at += 70_000));
          },
        });
        const echo = await fetch(url + '/echo', {method: 'POST', body: upload(), duplex: 'half'});
        assert.ok(large.equals(await bytes(echo)));
        const pipe = await fetch(url + '/pipe', {method: 'POST', body: large.subarray(0, 300_000)});
        assert.ok(large.subarray(0, 300_000).equals(await bytes(pipe)));
        let length = 0;
        for await (const piece of (await fetch(url + '/stream/100')).body) length += piece.length;
        assert.equal(length, 100 * 65536);
        const form = new FormData();
        form.set('name', 'é');
        form.set('file', new Blob([large]), 'large.bin');
        const parts = await bytes(await fetch(url + '/echo', {method: 'POST', body: form}));
        assert.ok(parts.includes('filename="large.bin"') && parts.includes(large));
    """)


def test_fetch_many_at_once_and_some_given_up(node):
    node("""
        const echo = async (i) =>
          (await fetch(url + '/echo', {method: 'POST', body: `${i}`})).text();
        const wanted = [...Array(300).keys()].map(String);
        assert.deepEqual(await Promise.all(wanted.map(echo)), wanted);
        const giveUp = async () => {
          const abort = new AbortController();
          const r = await fetch(url + '/stream/10000', {signal: abort.signal});
          await r.body.getReader().read();
          abort.abort();
        };
        await Promise.all([...Array(30)].map(giveUp));
        assert.equal(await echo(1), '1');
    """)


def test_agent_keeps_as_many_connections_as_it_may(node):
    stats = node("""
        const agent = new http.Agent({keepAlive: true, maxSockets: 4});
        const echo = async (i) => {
          const r = await request('/echo', {agent, method: 'POST'}, `${i}`);
          assert.equal(r.status, 200);
          return r.body.toString();
        };
        const wanted = [...Array(400).keys()].map(String);
        assert.deepEqual(await Promise.all(wanted.map(echo)), wanted);
        console.log((await request('/stats', {agent})).body.toString());
        agent.destroy();
    """)
    assert stats["accepted"] <= 4


def test_agent_without_keep_alive_and_continue(node):
    stats = node("""
        const agent = new http.Agent({keepAlive: false});
        for (let i = 0; i < 20; i++)
          assert.equal((await request('/hello', {agent})).body.toString(), 'Hello, World');
        const headers = {Expect: '100-continue', 'Transfer-Encoding': 'chunked'};
        const r = await request('/echo', {agent, method: 'POST', headers}, large);
        assert.equal(r.status, 200);
        assert.ok(r.body.equals(large));
        console.log((await request('/stats', {agent})).body.toString());
    """)
    assert stats["accepted"] == 22
