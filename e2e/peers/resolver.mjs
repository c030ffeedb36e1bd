// An HTTP client with a resolver of its own: Node's c-ares, which reads resolv.conf and speaks to the servers in it
// itself, past the C library.
//
//   node resolver.mjs NAME PORT
//
// Prints as JSON the addresses of both families, what TCP in place of UDP would not change, and the answers of a GET
// to each address.

import { Resolver } from 'node:dns/promises';
import http from 'node:http';

const [name, port] = process.argv.slice(2);
const resolver = new Resolver({ timeout: 20_000, tries: 1 });
const addresses = {
  4: await resolver.resolve4(name),
  6: await resolver.resolve6(name),
};

function get(host, family) {
  return new Promise((resolve, reject) => {
    const request = http.get({ host, family, port, path: '/', headers: { host: `${name}:${port}` } }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode));
    });
    request.on('error', reject);
  });
}

let missing;
try {
  await resolver.resolve4('no-such-name.shop.svc.cluster.local');
} catch (error) {
  missing = error.code;
}

const statuses = {
  4: await get(addresses[4][0], 4),
  6: await get(addresses[6][0], 6),
};
console.log(JSON.stringify({ servers: resolver.getServers(), addresses, statuses, missing }));
