// Print the five stored images most similar to an image file, as JSON: node search.js HOST:PORT GALLERY IMAGE
// If --add KEY follows, add the file to the gallery under this key first.
const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const protos = path.join(__dirname, "..", "..", "protos");
const load = (name) =>
  grpc.loadPackageDefinition(
    loader.loadSync(`encoder_service/v1/${name}.proto`, { includeDirs: [protos], keepCase: false, longs: Number }),
  ).encoder_service.v1;

const [address, gallery, file, flag, key] = process.argv.slice(2);
const image = { encoded: fs.readFileSync(file) };
const plain = grpc.credentials.createInsecure();

function search() {
  const client = new (load("search").SearchService)(address, plain);
  client.search({ gallery, image, limit: 5 }, { deadline: Date.now() + 10_000 }, (error, response) => {
    client.close();
    if (error) {
      console.error(`${grpc.status[error.code]}: ${error.details}`);
      process.exitCode = 1;
      return;
    }
    console.log(JSON.stringify(response.hits.map(({ key, label, distance }) => ({ key, label, distance }))));
  });
}

function addThenSearch() {
  const client = new (load("gallery").GalleryService)(address, plain);
  const stream = client.addImages();
  stream.on("data", ({ error }) => error && console.error(error.message));
  stream.on("error", (error) => console.error(error.details));
  stream.on("end", () => {
    client.close();
    search();
  });
  stream.end({ gallery, key, image });
}

if (flag === "--add") addThenSearch();
else search();
