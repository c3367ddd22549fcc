void berth_drop_signals(void);
