package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	cnins "github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// Plugins answers calls of plugins. It is safe for concurrent use; calls for one container
// are for the caller to order. Its zero value is ready.
type Plugins struct {
	tools tools        // iptables, as it was found on the node
	dirs  reservations // locks of host-local's folders, within this process

	retired retirement
}

// A command is what one plugin does at one command. ADD returns a result.
type command func(context.Context, *call) (types.Result, error)

// An answerer is a plugin. A command that it has not succeeds, as the program's does.
type answerer struct {
	add, del, check command
	// unsupported names the first key of a configuration that is not answered here, or is "".
	unsupported func(*call) (string, error)
}

func (p *Plugins) named(name string) (answerer, bool) {
	switch name {
	case "loopback":
		return answerer{addLoopback, delLoopback, checkLoopback, supported}, true
	case "bridge":
		return answerer{p.addBridge, p.delBridge, p.checkBridge, unsupportedByBridge}, true
	case "ptp":
		return answerer{p.addPtp, p.delPtp, p.checkPtp, unsupportedByPtp}, true
	case "host-local":
		return answerer{p.addHostLocal, p.delHostLocal, p.checkHostLocal, supported}, true
	case "portmap":
		return answerer{p.addPortmap, p.delPortmap, p.checkPortmap, unsupportedByPortmap}, true
	}
	return answerer{}, false
}

func supported(*call) (string, error) { return "", nil }

// Has tells whether the plugin called name is one of those.
func (p *Plugins) Has(name string) bool {
	_, ok := p.named(name)
	return ok
}

// Unsupported names a key of the configuration conf that is not answered here, for a plugin
// that Has; "" is none. A configuration that cannot be read has none: Answer says what is
// wrong with it.
func (p *Plugins) Unsupported(name string, conf []byte) string {
	plugin, ok := p.named(name)
	if !ok {
		return "type"
	}
	key, err := plugin.unsupported(&call{conf: conf})
	if err != nil {
		return ""
	}
	return key
}

// Delegate is the plugin that a plugin runs in its turn by its configuration: the one for
// addresses; "" is none.
func Delegate(conf []byte) string {
	var c types.PluginConf
	if json.Unmarshal(conf, &c) != nil {
		return ""
	}
	return c.IPAM.Type
}

// Answer does what the program of the plugin called name would do with conf as its input and env as its
// environment, in the network namespace of the calling thread, and returns what it would write. An
// error carries a *types.Error, with the code that the program would give.
//
// Programs that are run meanwhile (iptables) inherit lock, if there is one: who holds it may still be at work.
// When ctx ends they are killed, and Answer returns at its next step.
func (p *Plugins) Answer(ctx context.Context, name string, conf []byte, env []string, lock *os.File) ([]byte, error) {
	plugin, ok := p.named(name)
	if !ok {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("plugin %q is not answered in-process", name), "")
	}
	c, err := newCall(conf, env, lock)
	if err != nil {
		return nil, err
	}
	// What was not made for its configuration is to be taken away all the same.
	if key, err := plugin.unsupported(c); c.command != "DEL" && err == nil && key != "" {
		return nil, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("%s: the key %s is not answered in-process", name, key), "")
	}
	result, err := c.run(ctx, plugin)
	if err != nil {
		return nil, coded(err)
	}
	if result == nil {
		return nil, nil
	}
	return c.encode(result)
}

// A call is what a plugin is told.
type call struct {
	command   string // CNI_COMMAND
	container string
	netns     string // a path; for DEL it may be "" or gone
	ifName    string
	args      string // CNI_ARGS: K=V;K=V
	conf      []byte
	version   string   // of the CNI specification, by conf
	lock      *os.File // for programs to inherit; nil is none
}

// newCall checks what every plugin checks (CNI spec 1.1, section 2).
func newCall(conf []byte, env []string, lock *os.File) (*call, error) {
	value := map[string]string{}
	for _, e := range env {
		if key, v, ok := strings.Cut(e, "="); ok && strings.HasPrefix(key, "CNI_") {
			value[key] = v
		}
	}
	c := &call{
		command: value["CNI_COMMAND"], container: value["CNI_CONTAINERID"], netns: value["CNI_NETNS"],
		ifName: value["CNI_IFNAME"], args: value["CNI_ARGS"], conf: conf, lock: lock,
	}
	if err := c.checkEnvironment(); err != nil {
		return nil, err
	}
	if c.command == "VERSION" {
		return c, nil
	}
	var named struct{ Name string }
	if err := json.Unmarshal(conf, &named); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	if err := utils.ValidateNetworkName(named.Name); err != nil {
		return nil, err
	}
	v, err := (&version.ConfigDecoder{}).Decode(conf)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	if err := (&version.Reconciler{}).Check(v, version.All); err != nil {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Details())
	}
	c.version = v
	return c, nil
}

func (c *call) checkEnvironment() error {
	var missing []string
	need := func(name, value string) {
		if value == "" {
			missing = append(missing, name)
		}
	}
	need("CNI_COMMAND", c.command)
	switch c.command {
	case "ADD", "CHECK":
		need("CNI_NETNS", c.netns)
		fallthrough
	case "DEL":
		need("CNI_CONTAINERID", c.container)
		need("CNI_IFNAME", c.ifName)
	}
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("required env variables [%s] missing", strings.Join(missing, ",")), "")
	}
	switch c.command {
	case "ADD", "CHECK", "DEL":
		if err := utils.ValidateContainerID(c.container); err != nil {
			return err
		}
		if err := utils.ValidateInterfaceName(c.ifName); err != nil {
			return err
		}
	}
	return nil
}

// since are the commands that came with a later version of the specification.
var since = map[string]string{"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

// run does the command. The reference plugins do nothing at STATUS that could fail for the plugins
// that are answered here, and nothing at GC.
func (c *call) run(ctx context.Context, plugin answerer) (types.Result, error) {
	if v, later := since[c.command]; later {
		if has, err := version.GreaterThanOrEqualTo(c.version, v); err != nil || !has {
			return nil, types.NewError(types.ErrIncompatibleCNIVersion, "config version does not allow "+c.command, "")
		}
	}
	switch c.command {
	case "ADD", "DEL":
		// The programs look afterwards, when the host's interface may be gone.
		if same, err := cnins.CheckNetNS(c.netns); err != nil {
			return nil, err
		} else if same {
			return nil, types.NewError(types.ErrInvalidNetNS, "plugin's netns and netns from CNI_NETNS should not be the same", "")
		}
		if c.command == "ADD" {
			return plugin.add(ctx, c)
		}
		return plugin.del(ctx, c)
	case "CHECK":
		return plugin.check(ctx, c)
	case "GC", "STATUS":
		return nil, nil
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "unknown CNI_COMMAND: "+c.command, "")
}

// encode writes a result in the version that the configuration asks for.
func (c *call) encode(r types.Result) ([]byte, error) {
	v, err := r.GetAsVersion(c.version)
	if err != nil {
		return nil, coded(err)
	}
	var out bytes.Buffer
	if err := v.PrintTo(&out); err != nil {
		return nil, coded(err)
	}
	return out.Bytes(), nil
}

// decode reads a result that was written in the version of the configuration.
func (c *call) decode(data []byte) (types.Result, error) { return create.Create(c.version, data) }

// ended is the reason why ctx has ended, or nil.
func ended(ctx context.Context, doing string) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("given up before %s: %w", doing, context.Cause(ctx))
}

// A failure is an error with the code that a plugin tells.
type failure struct {
	told  *types.Error
	cause error
}

func (f *failure) Error() string   { return f.cause.Error() }
func (f *failure) Unwrap() []error { return []error{f.told, f.cause} }

// coded gives err a code, unless it has one.
func coded(err error) error {
	if told, ok := errors.AsType[*types.Error](err); ok && told != nil {
		return err
	}
	return &failure{types.NewError(types.ErrInternal, err.Error(), ""), err}
}
