package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// metadata is what a guest is answered at a path.
func (g *guest) metadata(ctx context.Context, path string, args ...string) (string, error) {
	argv := append([]string{"curl", "-sS", "--fail-with-body", "-m", "15", "http://169.254.169.254" + path}, args...)
	return g.Exec(ctx, argv...)
}

// learns waits until a guest is answered something that contains a text.
func (f *fleet) learns(g *guest, path, want string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s learns %q at %s", g.Spec.Name, want, path), func(ctx context.Context) error {
		got, err := g.metadata(ctx, path)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
}

// keepsAsking asks until it is stopped, and gives what was not answered right.
func (g *guest) keepsAsking(ctx context.Context, path, want string) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var wrong error
	asked := make(chan struct{}, 1)
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond) // half of what a VM may
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			got, err := g.metadata(ctx, path)
			if ctx.Err() == nil && (err != nil || got != want) {
				wrong = errors.Join(wrong, fmt.Errorf("%q %w", got, err))
			}
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	})
	<-asked
	return func() error {
		<-asked // one that began before this
		cancel()
		wg.Wait()
		return wrong
	}
}

// metadataProxies are the pids of a host's metadata proxies, inside the host.
func (f *fleet) metadataProxies(host string) []string {
	f.t.Helper()
	return strings.Fields(f.sh(f.host(host).Space, `for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = weft-metadata ] && basename $p; done; true`))
}

// clientOfCloudInit reads as cloud-init's OpenStack and EC2 data sources do, with their own code.
const clientOfCloudInit = `
from cloudinit.sources.helpers import ec2, openstack
base = "http://169.254.169.254"
got = openstack.MetadataReader(base, timeout=10, retries=2).read_v2()
md = ec2.get_instance_metadata("2009-04-04", base, timeout=10, retries=2)
print("openstack", got["version"], got["metadata"]["uuid"], got["metadata"]["hostname"], got["userdata"], sorted(got["metadata"]["public_keys"]), len(got["networkdata"]["links"]))
print("ec2", md["instance-id"], md["local-hostname"], md["local-ipv4"], md["public-keys"])
print("user-data", ec2.get_instance_userdata("2009-04-04", base, timeout=10, retries=2))
`

// TestMetadata asks as VMs do: behind two routers with the same addresses, and on a network without one.
func TestMetadata(t *testing.T) {
	f := newFleet(t, "e2e-metadata", func(o *lab.Options) { o.NetworkNodes, o.ComputeNodes, o.Externals = 1, 1, 1 })
	ext1 := f.outside("ext1", "203.0.113.0/24")
	guests := map[string]*guest{}
	for _, name := range []string{"a", "b", "c"} {
		n, s := f.vxlan("net-"+name, "10.10.10.0/24")
		switch name {
		case "a":
			f.router("r-a", ext1, s)
		case "b":
			f.router("r-b", nil, s)
		}
		guests[name] = f.guestOf(name, "cmp1", f.port(&weftv1.Port{
			Name: name, NetworkId: n.GetId(), DeviceId: "device-" + name, FixedIps: []*weftv1.FixedIp{{IpAddress: "10.10.10.11"}},
			Instance: &weftv1.Instance{
				Id: "vm-" + name, Hostname: "host-" + name, UserData: []byte("#cloud-config for " + name + "\n"), PublicKeys: []string{"ssh-ed25519 AAAA me@" + name},
			},
		}))
	}
	for name, g := range guests {
		t.Run(name+" learns of itself", func(t *testing.T) {
			f := f.in(t)
			f.learns(g, "/latest/meta-data/instance-id", "vm-"+name)
			f.learns(g, "/latest/user-data", "for "+name)
			f.learns(g, "/openstack/latest/meta_data.json", `"hostname":"host-`+name+`.weft.internal"`)
			f.learns(g, "/openstack/latest/network_data.json", g.port.GetMacAddress())
			again, err := g.Configure(t.Context())
			f.must(err)
			if again.Host != "host-"+name {
				t.Errorf("DHCP calls it %q", again.Host)
			}
			f.learns(g, "/latest/meta-data/public-keys/0/openssh-key", "me@"+name)
			got, err := g.metadata(t.Context(), "/latest/meta-data/instance-id", "-H", "X-Forwarded-For: 10.10.10.1", "-H", "X-Instance-ID: vm-other")
			if err != nil || got != "vm-"+name {
				t.Errorf("claiming to be another: %q %v", got, err)
			}
		})
		t.Run(name+" asks with cloud-init's own code", func(t *testing.T) {
			f := f.in(t)
			code, err := filepath.Abs("../.cache/cloud-init/usr/lib/python3/dist-packages")
			f.must(err)
			if _, err := os.Stat(code); err != nil {
				t.Fatalf("cloud-init's code is not there: make deps: %v", err)
			}
			got := f.sh(g.Space, "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="+code+" /usr/bin/python3 - <<'END'"+clientOfCloudInit+"END\n")
			for _, want := range []string{
				"openstack 2 vm-" + name + " host-" + name + ".weft.internal b'#cloud-config for " + name, "['me@" + name + "'] 1\n",
				"ec2 vm-" + name + " host-" + name + ".weft.internal 10.10.10.11", "ssh-ed25519 AAAA me@" + name, "user-data b'#cloud-config for " + name,
			} {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in\n%s", want, got)
				}
			}
		})
	}
	t.Run("a router's own address serves nobody", func(t *testing.T) {
		if got, err := guests["a"].Exec(t.Context(), "curl", "-sS", "-m", "10", "http://10.10.10.1:9697/latest/user-data"); err == nil {
			t.Errorf("it answers %q", got)
		}
	})
	t.Run("nothing leads there from outside", func(t *testing.T) {
		out := f.external("ext1").Space
		if got, err := out.Exec(t.Context(), "curl", "-sS", "-m", "2", "--connect-to", "169.254.169.254:80:203.0.113.50:80", "http://169.254.169.254/latest/user-data"); err == nil {
			t.Errorf("it answers %q", got)
		}
	})
	t.Run("requests go on while the agent is replaced", func(t *testing.T) {
		f := f.in(t)
		before := f.metadataProxies("net1")
		stops := []func() error{guests["a"].keepsAsking(t.Context(), "/latest/meta-data/instance-id", "vm-a"), guests["c"].keepsAsking(t.Context(), "/latest/meta-data/instance-id", "vm-c")}
		f.must(f.host("net1").Kill(t.Context(), lab.AgentDaemon))
		f.must(f.host("net1").Start(t.Context(), lab.AgentDaemon))
		for _, stop := range stops {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
		if now := f.metadataProxies("net1"); len(before) != 1 || len(now) != 1 || before[0] != now[0] {
			t.Errorf("proxies %v before, %v after", before, now)
		}
	})
	t.Run("a proxy that dies is replaced", func(t *testing.T) {
		f := f.in(t)
		before := f.metadataProxies("net1")
		f.sh(f.host("net1").Space, fmt.Sprintf("kill -%d %s", unix.SIGKILL, strings.Join(before, " ")))
		for name, g := range guests {
			f.learns(g, "/latest/meta-data/instance-id", "vm-"+name)
		}
	})
	t.Run("a VM that floods is held back, and others are served", func(t *testing.T) {
		f := f.in(t)
		flood := `for i in $(seq 400); do curl -s -m 5 -o /dev/null -w '%{http_code}\n' http://169.254.169.254/latest/meta-data/instance-id || true; done | sort | uniq -c`
		done := make(chan string, 1)
		go func() {
			got, err := guests["a"].Exec(t.Context(), "sh", "-c", flood)
			done <- fmt.Sprint(got, err)
		}()
		f.learns(guests["b"], "/latest/meta-data/instance-id", "vm-b")
		if got := <-done; !strings.Contains(got, " 429\n") {
			t.Errorf("answers:\n%s", got)
		}
	})
	t.Run("a port without an instance is told of by its device", func(t *testing.T) {
		f := f.in(t)
		p, err := f.getPort(t.Context(), guests["b"].port.GetId())
		f.must(err)
		p.Instance = nil
		_, err = f.ports.UpdatePort(t.Context(), &weftv1.UpdatePortRequest{Port: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"instance"}}})
		f.must(err)
		f.learns(guests["b"], "/latest/meta-data/instance-id", "device-b")
		f.learns(guests["b"], "/latest/meta-data/hostname", "host-10-10-10-11.weft.internal")
	})
}
