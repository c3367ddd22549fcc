package plugin

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// bridgeConf is bridge's configuration (cni.dev/plugins/current/main/bridge).
type bridgeConf struct {
	types.PluginConf
	Bridge           string  `json:"bridge"`
	IsGateway        bool    `json:"isGateway"`
	IsDefaultGateway bool    `json:"isDefaultGateway"`
	ForceAddress     bool    `json:"forceAddress"`
	IPMasq           bool    `json:"ipMasq"`
	IPMasqBackend    *string `json:"ipMasqBackend"`
	MTU              int     `json:"mtu"`
	HairpinMode      bool    `json:"hairpinMode"`
	PromiscMode      bool    `json:"promiscMode"`
	EnableDAD        bool    `json:"enabledad"`
	PortIsolation    bool    `json:"portIsolation"`
	NoInterface      bool    `json:"disableContainerInterface"`

	Args struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`

	bridgeUnsupported
}

// bridgeUnsupported are the keys that are the program's business.
type bridgeUnsupported struct {
	VLAN        int               `json:"vlan"`
	VLANTrunk   []json.RawMessage `json:"vlanTrunk"`
	MACSpoofChk bool              `json:"macspoofchk"`
}

func unsupportedByBridge(c *call) (string, error) {
	var conf bridgeConf
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return "", err
	}
	switch {
	case conf.VLAN != 0:
		return "vlan", nil
	case conf.VLANTrunk != nil:
		return "vlanTrunk", nil
	case conf.MACSpoofChk:
		return "macspoofchk", nil
	case conf.IPAM.Type != "" && conf.IPAM.Type != "host-local":
		return "ipam.type", nil
	}
	return "", nil
}

// readBridge reads the configuration, and the pod's MAC address from where it may be.
func readBridge(c *call) (conf bridgeConf, mac string, err error) {
	conf.Bridge = "cni0"
	if err := json.Unmarshal(c.conf, &conf); err != nil {
		return conf, "", fmt.Errorf("failed to load netconf: %w", err)
	}
	var args struct {
		types.CommonArgs
		MAC types.UnmarshallableString
	}
	if err := types.LoadArgs(c.args, &args); err != nil {
		return conf, "", err
	}
	for _, m := range []string{conf.RuntimeConfig.MAC, conf.Args.CNI.MAC, string(args.MAC)} {
		if mac == "" {
			mac = m
		}
	}
	conf.IsGateway = conf.IsGateway || conf.IsDefaultGateway
	return conf, mac, nil
}

func (c bridgeConf) check() error {
	if c.IPAM.Type != "" && c.NoInterface {
		return errors.New("cannot use IPAM when DisableContainerInterface flag is set")
	}
	if c.HairpinMode && c.PromiscMode {
		return errors.New("cannot set hairpin mode and promiscuous mode at the same time")
	}
	return nil
}
