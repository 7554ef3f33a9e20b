# Builds kube-apiserver from Debian's source package, with Debian's Go.
#
#   sh kube-apiserver.sh FOLDER
#
# Leaves FOLDER/bin/kube-apiserver, and FOLDER/complete as its last deed. Takes ten minutes of a small machine and 2 GB
# of disk while it runs, next to nothing afterwards.
set -eu

version=1.20.2
folder=$1
work=$folder/work

rm -rf "$folder"
mkdir -p "$folder/bin" "$work/sources" "$work/lists/partial" "$work/go" "$work/cache" "$work/tmp"

# The machine's own mirrors, asked for sources instead of packages, without changing the machine's settings.
if [ -d /etc/apt/sources.list.d ]; then
    for file in /etc/apt/sources.list.d/*.sources; do
        if [ -e "$file" ]; then
            sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/sources/$(basename "$file")"
        fi
    done
fi
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    if [ -e "$file" ]; then
        sed -n 's/^deb /deb-src /p' "$file" >"$work/sources/$(basename "$file" .list).list"
    fi
done
apt() {
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache::srcpkgcache= -o Dir::Cache::pkgcache= \
        -o APT::Sandbox::User= "$@"
}
apt update
cd "$work"
apt --download-only source kubernetes
set -- kubernetes_*.orig.tar.gz
case $1 in
*really"$version".orig.tar.gz | kubernetes_"$version".orig.tar.gz) ;;
*)
    echo "this recipe builds Kubernetes $version, but the source that Debian has here is $1" >&2
    exit 1
    ;;
esac
tar xzf "$1"

# This source is from before Go's modules: it wants to lie in GOPATH, and in a real directory there.
export GOPATH="$work/go" GOCACHE="$work/cache" GOTMPDIR="$work/tmp" GO111MODULE=off CGO_ENABLED=0 GOFLAGS=
mkdir -p "$GOPATH/src/k8s.io"
mv "kubernetes-$version" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"

# The vendored reflect2 1.0.1 crashes the server within a minute when built with Go 1.18 or later.
rm -rf vendor/github.com/modern-go/reflect2
cp -r /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
rm -f vendor/github.com/modern-go/reflect2/go.mod

# Code that the source package leaves to be generated.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg staging/src/k8s.io vendor/k8s.io/kube-openapi |
    grep -vE '_examples|sample-|zz_generated|testdata' | xargs -n1 dirname | sed 's#^staging/src/#vendor/#' |
    LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd, -)
"$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h hack/boilerplate/boilerplate.generatego.txt -r "$work/violations.txt"

stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    for prefix in "" k8s.io/kubernetes/vendor/; do
        stamp="$stamp -X $prefix$package.gitVersion=v$version -X $prefix$package.gitMajor=1"
        stamp="$stamp -X $prefix$package.gitMinor=20"
    done
done
go build -ldflags "-s -w$stamp" -o "$work/kube-apiserver" ./cmd/kube-apiserver

mv "$work/kube-apiserver" "$folder/bin/kube-apiserver"
chmod -R u+w "$work"
rm -rf "$work"
echo "$version" >"$folder/complete"
