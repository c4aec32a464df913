"""What a smart home can be asked, and in which words: rooms, tools, values and sentence templates.

The names of the entities (`cover.living_room`) are in no prompt: they are what a model has to be tuned to know.
"""

from dataclasses import dataclass
from typing import Any

Value = str | int | bool

ROOMS = {
    "kitchen": ["the kitchen"],
    "living_room": ["the living room", "the lounge"],
    "bedroom": ["the bedroom", "my bedroom"],
    "kids_room": ["the kids' room", "the children's room"],
    "bathroom": ["the bathroom", "the bath"],
    "study": ["the study", "my office"],
    "hallway": ["the hallway", "the hall"],
    "guest_room": ["the guest room"],
}
DOORS = {
    "front": ["the front door", "the main door"],
    "back": ["the back door", "the rear door"],
    "garage": ["the garage door"],
    "garden": ["the garden gate", "the garden door"],
}


@dataclass(frozen=True)
class Skill:
    """One tool. Its two parameters are the entity, `device.place` as this home names it, and `what`.

    A template speaks of {where} and {what}. `phrases` has, for every value, the words that stand for it; a value may
    have templates of its own in `own_templates` ("open the blinds" needs no number).
    """

    tool: str
    description: str
    device: str
    what: str
    places: dict[str, list[str]]
    phrases: dict[Value, list[str]]
    templates: list[str]
    own_templates: dict[Value, list[str]]

    def schema(self) -> dict[str, Any]:
        kind = {bool: "boolean", int: "integer", str: "string"}[type(next(iter(self.phrases)))]
        properties = {"entity": {"type": "string"}, self.what: {"type": kind}}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        return {
            "type": "function",
            "function": {"name": self.tool, "description": self.description, "parameters": parameters},
        }


def _percent(*numbers: int) -> dict[Value, list[str]]:
    return {number: [f"{number}%", f"{number} percent", f"{number} per cent"] for number in numbers}


def _words(*values: str) -> dict[Value, list[str]]:
    return {value: [value.replace("_", " ")] for value in values}


SKILLS = [
    Skill(
        "set_light", "Dim the lights", "light", "percent", ROOMS, _percent(0, 20, 40, 60, 80, 100),
        [
            "dim the lights in {where} to {what}", "set the lights in {where} to {what}", "lights at {what} in {where}",
            "in {where} I want the lights at {what}", "{what} light in {where}", "bring the lamp in {where} to {what}",
            "change the brightness in {where} to {what}", "let the lamps of {where} shine at {what}",
        ],
        {
            0: ["turn off the lights in {where}", "switch the lights in {where} off", "make {where} dark",
                "lights out in {where}"],
            100: ["turn the lights in {where} all the way up", "full light in {where}",
                  "switch on the lights in {where}"],
        },
    ),
    Skill(
        "light_colour", "Colour of the lights", "light", "colour", ROOMS,
        _words("red", "blue", "green", "purple", "orange", "white"),
        [
            "make the lights in {where} {what}", "turn the lights of {where} {what}", "{what} light for {where}",
            "I want {what} lamps in {where}", "change the light colour in {where} to {what}",
            "colour {where} {what}", "in {where}, switch the bulbs to {what}", "paint {where} in {what} light",
        ],
        {},
    ),
    Skill(
        "set_heating", "Set a room's temperature", "climate", "degrees", ROOMS,
        {number: [f"{number} degrees", f"{number}°"] for number in range(17, 24)},
        [
            "heat {where} to {what}", "set {where} to {what}", "make it {what} in {where}", "I need {what} in {where}",
            "turn the thermostat in {where} to {what}", "keep {where} at {what}", "{where} should be {what}",
            "bring {where} up to {what}", "the temperature in {where} should be {what}",
        ],
        {},
    ),
    Skill(
        "move_blinds", "Move the blinds, 100 is open", "cover", "position", ROOMS, _percent(0, 25, 50, 75, 100),
        [
            "set the blinds in {where} to {what}", "move the blinds of {where} to {what}",
            "blinds in {where} at {what}",
            "put the shutters in {where} at {what}", "raise the blinds in {where} to {what}",
        ],
        {
            0: ["close the blinds in {where}", "shut the blinds in {where}", "pull the shutters down in {where}",
                "let the shutters in {where} down"],
            50: ["open the blinds in {where} halfway", "blinds half open in {where}"],
            100: ["open the blinds in {where}", "pull up the shutters in {where}"],
        },
    ),
    Skill(
        "play_music", "Play music in a room", "speaker", "genre", ROOMS,
        _words("jazz", "rock", "techno", "folk", "lullabies", "country"),
        [
            "play {what} in {where}", "put on some {what} in {where}", "I want to hear {what} in {where}",
            "start {what} music in {where}", "some {what} for {where}", "in {where}, play a bit of {what}",
            "let us have {what} in {where}", "{what} on the speakers in {where}",
        ],
        {},
    ),
    Skill(
        "lock_door", "Lock or unlock a door", "lock", "locked", DOORS, {True: ["locked"], False: ["unlocked"]},
        ["I want {where} {what}", "keep {where} {what}", "make sure {where} is {what}", "leave {where} {what}",
         "{where} should be {what}"],
        {
            True: ["lock {where}", "bolt {where}", "lock up {where} for the night", "close and lock {where}"],
            False: ["unlock {where}", "unbolt {where}", "unlock {where} for the guests"],
        },
    ),
    Skill(
        "start_vacuum", "Send the robot vacuum", "vacuum", "mode", ROOMS, _words("quiet", "normal", "turbo", "mop"),
        [
            "vacuum {where} in {what} mode", "clean {where} with the robot, mode {what}",
            "send the robot to {where}, {what}",
            "{what} vacuuming in {where}", "let the vacuum do {where} on {what}", "run the robot in {where} on {what}",
        ],
        {
            "mop": ["mop {where}", "mop the floor in {where}", "wipe the floor of {where}"],
            "normal": ["vacuum {where}", "send the vacuum to {where}"],
        },
    ),
    Skill(
        "set_fan", "Speed of a fan", "fan", "speed", ROOMS,
        {0: ["0"], 1: ["1"], 2: ["2"], 3: ["3"], 4: ["4"]},
        [
            "set the fan in {where} to {what}", "fan speed {what} in {where}", "run the fan in {where} at speed {what}",
            "put the fan of {where} on level {what}", "in {where}, fan on {what}",
            "level {what} for the fan in {where}",
        ],
        {
            0: ["stop the fan in {where}", "turn the fan in {where} off"],
            4: ["fan at full speed in {where}", "run the fan in {where} as fast as it goes"],
        },
    ),
]  # fmt: skip

BEFORE = [
    "please", "could you", "can you", "would you", "hey,", "hi,", "now", "ok,", "quickly", "one more thing:",
    "when you have a second,", "before I forget:", "I am in a hurry,", "good evening,", "listen,", "next,", "kindly",
]  # fmt: skip
AFTER = [
    "please", "thanks", "thank you", "right now", "for me", "if you can", "will you", "for tonight", "as usual",
    "until I am back", "for our guests", "when you can", "my dear", "immediately",
]  # fmt: skip
