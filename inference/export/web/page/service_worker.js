// Keep the page for offline use: the server's files come first, the kept ones only if the server cannot be reached.
const CACHE = "image-classifier";
const FILES = ["./", "index.html", "style.css", "app.js", "model.json", "model.onnx", "ort.js", "ort.wasm"];
// Another program may answer at this address later: only files of the page are kept
const KEPT = new Set(FILES.map((name) => new URL(name, self.registration.scope).href));

self.addEventListener("install", (event) => event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES))));

self.addEventListener("fetch", (event) => {
  const { origin, pathname } = new URL(event.request.url);
  if (event.request.method === "GET" && KEPT.has(origin + pathname)) event.respondWith(answer(event));
});

async function answer(event) {
  const cache = await caches.open(CACHE);
  let response;
  try {
    response = await fetch(event.request);
  } catch (error) {
    const kept = await cache.match(event.request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
  // Where the browser has no space for it, the page still works while the server is reached
  if (response.ok) event.waitUntil(cache.put(event.request, response.clone()).catch(() => {}));
  return response;
}
