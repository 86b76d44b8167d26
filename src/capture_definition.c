/*
 * capture_definition.c - what the arguments of a capture trigger say.
 *
 *	evsource.capture('line', 'order_id', 'number', '--exclude', 'note', '--as', 'ann')
 *
 * They tell how the table is captured: a dump holds them, the table may be renamed,
 * and partitions inherit them.  Who appends is asked for there as well, but granted
 * elsewhere (capture_registry.c).
 */
#include "capture.h"

#include "validate.h"

static void
refuse(const char *detail, const char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid arguments of trigger function evsource.capture"),
			 errdetail(detail, value),
			 errhint("They are the category and the key columns, then '--exclude' with columns and '--as' with a role if wanted. evsource.capture_table() writes them for you.")));
}

void
evs_capture_check_category(const char *category)
{
	if (category[0] == '\0' || strchr(category, '-') != NULL ||
		strlen(category) > EVS_MAX_NAME / 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid category \"%s\"", category),
				 errdetail("The category is what stands before the first \"-\" in the name of a stream, and has at most %d bytes here.",
						   EVS_MAX_NAME / 2),
				 errhint("Use a name without \"-\", such as \"order\".")));
}

void
evs_capture_parse(char *const *arguments, int count, EvsCaptureDefinition *definition)
{
	List	  **names = &definition->key;

	memset(definition, 0, sizeof(EvsCaptureDefinition));
	if (count == 0)
		refuse("There are none.", NULL);
	definition->category = arguments[0];
	evs_capture_check_category(definition->category);

	for (int i = 1; i < count; i++)
	{
		if (strcmp(arguments[i], EVS_CAPTURE_EXCLUDE) == 0)
			names = &definition->exclude;
		else if (strcmp(arguments[i], EVS_CAPTURE_AS) == 0)
		{
			if (i != count - 2)
				refuse("\"%s\" is not followed by one role, the last argument.", arguments[i]);
			definition->as = arguments[++i];
		}
		else if (strncmp(arguments[i], "--", 2) == 0)
			refuse("\"%s\" is not known.", arguments[i]);
		else
			*names = lappend(*names, arguments[i]);
	}
	if (definition->key == NIL)
		refuse("There is no key column.", NULL);
}
