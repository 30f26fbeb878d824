// dockerode: run, exec with input, logs that are followed, stats, networks, volumes, build, errors.
const assert = require('assert');
const { PassThrough } = require('stream');
const Docker = require('dockerode');

const docker = new Docker({ socketPath: process.env.DOCKER_HOST.slice('unix://'.length) });

function collect(stream) {
  return new Promise((resolve, reject) => {
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('error', reject);
    stream.on('end', () => resolve(Buffer.concat(parts).toString()));
  });
}

async function containers() {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const both = Promise.all([collect(stdout), collect(stderr)]);
  const [result, ran] = await docker.run('busybox', ['sh', '-c', 'echo out; echo err >&2; exit 4'], [stdout, stderr],
    { Tty: false });
  assert.strictEqual(result.StatusCode, 4);
  assert.deepStrictEqual(await both, ['out\n', 'err\n']);
  await ran.remove();

  const container = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'echo one; read x; echo two'],
    OpenStdin: true, Tty: true, name: 'ode' });
  await container.start();
  const execution = await container.exec({ Cmd: ['tr', 'a-z', 'A-Z'], AttachStdin: true, AttachStdout: true });
  const stream = await execution.start({ hijack: true, stdin: true });
  const output = collect(stream);
  stream.end('shout');
  assert.ok((await output).endsWith('SHOUT'));
  assert.strictEqual((await execution.inspect()).ExitCode, 0);
  const logs = collect(await container.logs({ follow: true, stdout: true }));
  assert.ok((await container.stats({ stream: false })).memory_stats.usage > 0);
  const attached = await container.attach({ stream: true, stdin: true, hijack: true });
  attached.write('go\n');
  await container.wait();
  assert.deepStrictEqual((await logs).split('\r\n').filter((line) => line === 'one' || line === 'two'), ['one', 'two']);
  await container.remove();
}

async function others() {
  const network = await docker.createNetwork({ Name: 'odenet', Labels: { a: 'b' } });
  const volume = await docker.createVolume({ Name: 'odevol' });
  assert.strictEqual((await network.inspect()).Labels.a, 'b');
  assert.strictEqual((await docker.listVolumes({ filters: { name: ['odevol'] } })).Volumes.length, 1);
  await network.remove();
  await volume.remove();
  const build = await docker.buildImage({ context: process.argv[2], src: ['Dockerfile'] }, { t: 'ode:1' });
  const steps = await new Promise((resolve, reject) => {
    docker.modem.followProgress(build, (error, lines) => (error ? reject(error) : resolve(lines)));
  });
  assert.ok(steps.some((line) => (line.stream || '').includes('Successfully built')));
  await docker.getImage('ode:1').remove();
  await assert.rejects(docker.getContainer('nosuch').inspect(), (error) => error.statusCode === 404
    && error.json.message === 'No such container: nosuch');
}

containers().then(others).catch((error) => {
  console.error(error);
  process.exit(1);
});
