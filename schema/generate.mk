# From the contract to code: tables, openapi.json and web/ inside the binary (schema/generate.h).

GEN := $(BUILD)/gen
GENERATE := $(BUILD)/schema/generate
GEN_WEB := $(sort $(wildcard web/*.html web/*.js web/*.css web/*.svg))
GEN_OBJ := $(GEN)/routes.o $(GEN)/shapes.o $(GEN)/assets.o $(GEN)/embed.o

# A program of the build: no sanitizer, it leaves its memory to the system.
$(GENERATE): $(sort $(wildcard schema/*.c)) schema/generate.h $(STAMP)
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O1 -g $(WARN) -D_GNU_SOURCE -I. -o $@ $(filter %.c,$^) -lcjson

$(GEN)/stamp: $(GENERATE) schema/types.json schema/routes.json server/api/handlers.h VERSION $(GEN_WEB) schema/generate.mk
	@mkdir -p $(GEN)
	$(GENERATE) $(GEN) $(VERSION) server/api/handlers.h schema/types.json schema/routes.json $(GEN_WEB)
	@touch $@

generated: $(GEN)/stamp

$(GEN)/routes.c $(GEN)/shapes.c $(GEN)/shapes.h $(GEN)/assets.c $(GEN)/embed.S $(GEN)/openapi.json: $(GEN)/stamp ;

$(GEN)/%.o: $(GEN)/%.c $(GEN)/stamp $(STAMP)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

$(GEN)/embed.o: $(GEN)/embed.S $(GEN)/stamp
	$(CC) -c -o $@ $<

$(BUILD)/gen-server.o: $(GEN_OBJ)
	ld -r -o $@ $^

