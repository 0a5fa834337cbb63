#!/bin/sh
# Puts into FOLDER what the targets arm64, cortex-a53 and cortex-a76 run under QEMU: Debian's Python for arm64, NumPy and
# ONNX Runtime VERSION for it, the plug-in that counts, and what each processor says of itself.
# Nothing of this machine's own packages changes. Usage: install.sh FOLDER VERSION
set -eu
folder=$1
version=$2
here=$(cd "$(dirname "$0")" && pwd)
parent=$(dirname "$folder")
mkdir -p "$parent"
new=$(mktemp -d "$parent/arm64.XXXXXX")
trap 'rm -rf "$new"' EXIT

# Debian's packages, by lists of their own.
apt=$new/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$new/root"
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' > "$apt/sources"
set -- -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User="$(id -un)" \
    -o Dir::State::Lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt" -o Debug::NoLocking=1 \
    -o Dir::Etc::SourceList="$apt/sources" -o Dir::Etc::SourceParts=/dev/null
apt-get "$@" update
(cd "$apt" && apt-get "$@" download libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 \
    libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)
for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$new/root"; done
rm -rf "$apt" "$new/root/usr/share"

python3 -m pip --disable-pip-version-check --quiet install --no-deps --only-binary=:all: --target "$new/site" \
    --implementation cp --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    numpy "onnxruntime==$version"

"${CC:-cc}" -O2 -shared -fPIC -fvisibility=hidden -o "$new/counts.so" "$here/counts.c"

# One processor each, whatever this machine has: what a program asks the system for, it finds below its own root.
core() {
    mkdir -p "$new/$1/proc" "$new/$1/sys/devices/system/cpu"
    for part in usr lib etc; do ln -s "../root/$part" "$new/$1/$part"; done
    printf 'processor\t: 0\nmodel name\t: %s\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 4\n\n' \
        "$2" "$4" "$3" > "$new/$1/proc/cpuinfo"
    for list in possible present online; do echo 0 > "$new/$1/sys/devices/system/cpu/$list"; done
}
features='fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid'
core cortex-a53 Cortex-A53 0xd03 "$features"
core cortex-a76 Cortex-A76 0xd0b "$features atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"

echo "$version" > "$new/onnxruntime"
chmod 755 "$new"
rm -rf "$folder"
mv "$new" "$folder"
trap - EXIT
