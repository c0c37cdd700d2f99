# Generated code and embedded files.
generated:
$(BUILD)/gen-ledger.o $(BUILD)/gen-server.o: $(STAMP)
	@echo '' | $(CC) $(CFLAGS_ALL) -x c -c -o $@ -
