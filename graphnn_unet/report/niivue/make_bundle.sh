#!/bin/sh
# Remakes niivue.min.js and LICENSES.txt beside this script: NiiVue for volumes alone.
# Needs Node 18 or newer and npm; nothing of it is needed to install or to use the package.
# Left out: Zarr, meshes' file formats, connectomes, most color maps, the picture for 3D surfaces.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --no-audit --no-fund --ignore-scripts @niivue/niivue@0.69.0 esbuild@0.25.12
cat >entry.ts <<'END'
export { Niivue, NVImage, SLICE_TYPE, DRAG_MODE, MULTIPLANAR_TYPE, SHOW_RENDER } from '@/niivue/index'
END
cat >build.mjs <<'END'
import { build } from 'esbuild'
import path from 'node:path'
const source = path.resolve('node_modules/@niivue/niivue/src')
const pixel = 'export default "data:image/png;base64,' +
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="'
const stubs = [
  [/^zarrita$/, 'export const registry = new Map()'],
  [/nvmesh-loaders$/, 'export const NVMeshLoaders = {}'],
  [/Shiny\.jpg$/, pixel],
  [/@\/cmaps$/, [['gray', 'gray'], ['inferno', 'inferno'], ['$itksnap', '_itksnap']].map(
    ([name, file]) => `export { default as ${name} } from ${JSON.stringify(`${source}/cmaps/${file}.json`)}`
  ).join('\n')],
]
const left_out = {
  name: 'left-out',
  setup(run) {
    stubs.forEach(([filter, contents], i) => {
      run.onResolve({ filter }, () => ({ path: String(i), namespace: 'stub' }))
    })
    run.onResolve({ filter: /^@\// }, (wanted) => run.resolve(
      `./${wanted.path.slice(2)}`, { resolveDir: source, kind: wanted.kind }
    ))
    run.onLoad({ filter: /.*/, namespace: 'stub' }, ({ path: i }) => (
      { contents: stubs[i][1], loader: 'js', resolveDir: source }
    ))
  },
}
await build({
  entryPoints: ['entry.ts'], outfile: 'niivue.min.js', bundle: true, minify: true,
  format: 'iife', globalName: 'niivue', target: 'es2022', charset: 'ascii', legalComments: 'none',
  loader: { '.png': 'dataurl', '.jpg': 'dataurl' }, plugins: [left_out], logLevel: 'warning',
  banner: { js: '/* NiiVue 0.69.0, BSD-2-Clause; licenses of all parts: LICENSES.txt */' },
})
END
node build.mjs
{
  echo "Licenses of what niivue.min.js is made of."
  for name in @niivue/niivue gl-matrix fflate nifti-reader-js @lukeed/uuid array-equal @ungap/structured-clone; do
    folder=node_modules/$name
    version=$(node -p "require('./$folder/package.json').version")
    printf '\n==== %s %s ====\n\n' "$name" "$version"
    if [ "$name" = @niivue/niivue ]; then
      cat "$here/LICENSE_NIIVUE.txt"  # the package on npm names its license without the text
    else
      cat "$folder"/LICEN[CS]E* "$folder"/license* 2>/dev/null || sed -n '/"license"/p' "$folder/package.json"
    fi
  done
} >LICENSES.txt
cp niivue.min.js LICENSES.txt "$here"
