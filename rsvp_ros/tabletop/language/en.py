"""English."""

from __future__ import annotations

import re
from typing import ClassVar

from rsvp_ros.tabletop.descriptions import HANDLED, Description
from rsvp_ros.tabletop.language.grammar import ChainWords, Grammar, Phrase
from rsvp_ros.tabletop.language.training_en import PARAPHRASES
from rsvp_ros.tabletop.queries import Beside, Between, Every, Except, Extreme, NearestEdge, NextTo, Only, Ordinal, Query
from rsvp_ros.tabletop.view import ObjectView

NOUNS = {
    "mug": ("mug|mugs", "coffee mug|coffee mugs"),
    "cup": ("paper cup|paper cups", "~disposable cup|disposable cups"),
    "bottle": ("bottle|bottles", "plastic bottle|plastic bottles"),
    "bowl": ("bowl|bowls",),
    "plate": ("plate|plates", "~dinner plate|dinner plates"),
    "teapot": ("teapot|teapots", "~tea pot|tea pots"),
    "pan": ("frying pan|frying pans", "pan|pans", "~skillet|skillets"),
    "knife": ("knife|knives", "~kitchen knife|kitchen knives"),
    "fork": ("fork|forks",),
    "spoon": ("spoon|spoons",),
    "scissors": ("|scissors", "pair of scissors|pairs of scissors"),
    "hammer": ("hammer|hammers", "~claw hammer|claw hammers"),
    "screwdriver": ("screwdriver|screwdrivers",),
    "spanner": ("wrench|wrenches", "spanner|spanners"),
    "tape": ("roll of tape|rolls of tape", "adhesive tape|rolls of adhesive tape", "~sticky tape|rolls of sticky tape"),
    "book": ("book|books", "~hardback book|hardback books"),
    "pen": ("pen|pens", "ballpoint pen|ballpoint pens", "~biro|biros"),
    "phone": ("phone|phones", "mobile phone|mobile phones", "smartphone|smartphones", "~cell phone|cell phones"),
    "remote": ("remote control|remote controls", "remote|remotes", "~TV remote|TV remotes"),
    "battery": ("battery|batteries",),
    "key": ("key|keys", "~door key|door keys"),
    "banana": ("banana|bananas",),
    "apple": ("apple|apples",),
    "orange": ("orange|oranges",),
    "pear": ("pear|pears",),
    "lemon": ("lemon|lemons",),
    "carrot": ("carrot|carrots",),
    "can": ("can|cans", "tin can|tin cans", "~metal can|metal cans"),
    "box": ("box|boxes", "cardboard box|cardboard boxes", "~carton|cartons"),
    "candle": ("candle|candles",),
    "sponge": ("sponge|sponges", "~dish sponge|dish sponges"),
    "ball": ("ball|balls", "rubber ball|rubber balls"),
    "cube": ("wooden cube|wooden cubes", "cube|cubes", "wooden block|wooden blocks"),
}
CATEGORY_NOUNS = {
    "fruit": ("piece of fruit|fruit", "fruit|pieces of fruit"),
    "cutlery": ("piece of cutlery|cutlery",),
    "tool": ("tool|tools",),
    "crockery": ("piece of crockery|crockery", "~dish|dishes"),
    "electronics": ("electronic device|electronic devices", "~gadget|gadgets"),
    "food": ("food item|food", "thing to eat|things to eat"),
}
THING = ("thing|things", "object|objects", "item|items")
PATTERNS = {"striped": ("striped",), "dotted": ("dotted", "spotted", "~polka-dot"), "checked": ("checked", "checkered")}
MATERIALS = {"wood": ("wooden",), "metal": ("metal",), "ceramic": ("ceramic",)}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
USES = {
    "cut": ("cut the rope with", "cut this string with", "~snip the thread with"),
    "drink": ("drink tea from", "drink coffee from", "~sip hot tea from"),
    "pour": ("pour a drink from", "fill a glass from"),
    "eat_soup": ("eat soup with", "stir my coffee with", "~eat yoghurt with"),
    "spear": ("pick up a piece of meat with at dinner", "twirl spaghetti with"),
    "drive_nail": ("drive a nail into the wall with", "hit a nail with", "~knock in a nail with"),
    "turn_screw": ("tighten a screw with", "turn a screw with", "~drive in a screw with"),
    "loosen_nut": ("loosen a nut with", "tighten a bolt with"),
    "write": ("write with", "sign the contract with", "~write a shopping list with"),
    "read": ("read", "read in bed", "~read on the train"),
    "call": ("call my mother with", "make a call with", "~phone the doctor with"),
    "switch_tv": ("switch on the TV with", "change the channel with", "~turn up the TV with"),
    "snack": ("eat as a healthy snack", "eat between meals"),
    "power": ("power the wall clock with", "put into the flashlight so that it works again"),
    "wipe": ("wipe the table with", "wash the dishes with", "~scrub the sink with"),
    "throw": ("play catch with", "throw for the dog"),
    "light": ("light the room with if the power fails", "make a cosy light with"),
    "stick": ("stick two sheets of paper together with", "seal a parcel with"),
    "unlock": ("unlock the door with", "open the lock with"),
    "serve_soup": ("serve the soup in", "eat cereal from"),
    "fry": ("fry an egg in", "fry pancakes in", "~make an omelette in"),
    "make_tea": ("brew a pot of tea in", "make tea for everybody in"),
}
HAZARDS = {
    "rolls": ("could roll off the table", "might roll away", "~would roll if the table tilted"),
    "breaks": ("would break if it fell", "would shatter on the floor", "~is fragile"),
    "cuts": ("could cut a child", "is too sharp for a toddler", "~is dangerous for little fingers"),
}
ALL_HAZARDS = {
    "rolls": ("could roll off the table", "might roll away"),
    "breaks": ("would break if it fell", "would shatter on the floor"),
    "cuts": ("could cut a child", "is too sharp for a toddler"),
}
SIDES = {
    "left": ("left of", "to the left of", "on the left side of", "~on the left-hand side of"),
    "right": ("right of", "to the right of", "on the right side of", "~on the right-hand side of"),
    "front": ("in front of",),
    "behind": ("behind", "~in back of"),
}
NEAR = ("next to", "beside", "right next to", "~right by")
SUPERLATIVES = {
    "largest": ("largest", "biggest"),
    "smallest": ("smallest", "~tiniest"),
    "longest": ("longest",),
    "shortest": ("shortest",),
    "tallest": ("tallest",),
}


class English(Grammar):
    language = "en"
    PARAPHRASES = PARAPHRASES
    GIVE = (
        "give me {x}.",
        "please hand me {x}.",
        "could you pass me {x}?",
        "can you bring me {x}, please?",
        "I need {x}.",
        "I'd like to have {x}.",
        "get me {x}.",
        "pick up {x}.",
        "take {x}, please.",
        "I'm looking for {x}.",
        "{x}, please.",
        "~fetch me {x}.",
        "~would you mind handing me {x}?",
        "~I could use {x} now.",
        "~grab {x}, will you?",
    )
    WHERE = (
        "where [is|are] {x:the}?",
        "show me {x:the}.",
        "point at {x:the}.",
        "find {x:the}.",
        "mark {x:the} in the picture.",
        "can you see {x:the}?",
        "~locate {x:the}.",
        "~do you spot {x:the}?",
        "~whereabouts [is|are] {x:the}?",
    )
    ANY = (
        "is there {x}?",
        "do you see {x}?",
        "find me {x}.",
        "can you find {x}?",
        "~have you got {x}?",
    )
    PLACE = (
        "what is {place}?",
        "what do you see {place}?",
        "what's lying {place}?",
        "show me what is {place}.",
        "give me what is {place}.",
        "please pick up whatever is {place}.",
        "which thing is {place}?",
        "~tell me what there is {place}.",
        "~what can be found {place}?",
    )
    ALL = (
        "give me {x}.",
        "pick up {x}.",
        "show me {x}.",
        "find {x}.",
        "could you collect {x}?",
        "please put {x} into the basket.",
        "where [is|are] {x}?",
        "I need {x}.",
        "mark {x} in the picture.",
        "take away {x}, please.",
        "~gather {x} for me.",
        "~would you clear away {x}?",
        "~I'd like to see {x}.",
    )
    NEEDS: ClassVar = {
        "cut": (
            "I have to cut this rope.",
            "this string is too long, I want to shorten it.",
            "how can I get this thread cut?",
            "~the rope must be cut in two.",
        ),
        "drink": ("I want to drink some coffee. What can I drink it from?", "what could I drink my tea from?"),
        "pour": ("what could I pour a drink from?", "what would you pour from to fill a glass?"),
        "eat_soup": (
            "I'd like to eat my soup. What do I eat it with?",
            "my coffee needs stirring.",
            "~soup is ready, what do I eat it with?",
        ),
        "spear": ("what do I twirl my spaghetti with?", "I'd like to eat spaghetti. What do I wind it up with?"),
        "drive_nail": (
            "I have to drive a nail into the wall.",
            "this nail sticks out, I want to knock it in.",
            "I'm hanging up a picture and have the nail already. What else do I need?",
            "~the nail must go into the board.",
        ),
        "turn_screw": ("this screw is loose.", "I have to tighten a screw.", "~I want to screw the shelf together."),
        "loosen_nut": ("this nut is stuck.", "I have to tighten a bolt.", "the hexagonal nut must come off."),
        "write": (
            "I want to write down a phone number.",
            "I have to sign this form.",
            "~I'd like to jot something down.",
        ),
        "read": (
            "I'm bored and would like to read.",
            "I want to read a story to the children.",
            "~a good novel would be nice.",
        ),
        "call": ("I have to call my mother.", "I want to ring the doctor.", "~I need to make a call."),
        "switch_tv": (
            "I want to watch television.",
            "the TV is too loud.",
            "please change the channel.",
            "~I don't like this TV programme.",
        ),
        "snack": ("I feel like eating something sweet and healthy.", "what could I eat as a healthy snack?"),
        "power": (
            "the clock has stopped, it has no power.",
            "my flashlight is dead.",
            "~the toy car has run out of power.",
        ),
        "wipe": ("my hands are dirty.", "I spilled some milk.", "the table is sticky.", "~the dishes must be washed."),
        "throw": ("the dog wants to play.", "let's play catch.", "~the kids want to play outside."),
        "light": (
            "the power is out and it's dark.",
            "I'd like some romantic light for dinner.",
            "~it's somebody's birthday, what can I light?",
        ),
        "stick": (
            "the page is torn, I want to mend it.",
            "I have to seal this parcel.",
            "~how do I fix the poster to the wall?",
        ),
        "unlock": ("the door is locked.", "I can't get into the house.", "~I have to open the lock."),
        "serve_soup": ("what can I eat my cereal from?", "the soup is hot, what do I put it in?"),
        "fry": ("I want to fry an egg.", "let's make pancakes.", "~I feel like bacon and eggs."),
        "make_tea": ("I want to brew tea for four people.", "the guests would like tea. What do I brew it in?"),
    }
    DANGERS: ClassVar = {
        "rolls": (
            "what could roll off the table?",
            "which thing could roll away?",
            "the table is tilting: what would roll off?",
            "careful, something could roll off the table.",
            "hold on to whatever might roll off the table.",
            "is there anything that could roll off?",
            "show me what could roll away.",
            "take away the thing that could roll off the table.",
            "~what won't stay put if somebody bumps the table?",
            "~which item may roll down?",
        ),
        "breaks": (
            "what would break if it fell?",
            "which thing would shatter on the floor?",
            "is there anything that would break if it fell down?",
            "put away the thing that would break if it fell.",
            "be careful with what could break.",
            "show me what would break in a fall.",
            "which thing must not be dropped because it would shatter?",
            "give me the breakable thing.",
            "~what is fragile here?",
            "~the cat is on the table: what could end up in pieces?",
        ),
        "cuts": (
            "what could a child cut itself on?",
            "a toddler is coming: take away the sharp thing.",
            "which thing is too sharp for a small child?",
            "is there anything sharp that could hurt a child?",
            "put away what a child could cut itself with.",
            "show me the sharp thing.",
            "what should children not play with because it is sharp?",
            "what is dangerous because of its blade?",
            "~what could cause a cut finger?",
            "~which item is not safe for little hands because it cuts?",
        ),
        "edge": (
            "what is nearest to the edge of the table?",
            "which thing is closest to the table's edge?",
            "what lies right at the edge of the table?",
            "move the thing that is closest to the edge.",
            "what could be knocked off the table most easily, being so near the edge?",
            "show me the thing nearest to the edge.",
            "something is too close to the edge. Please move it.",
            "push back what is nearest to the edge of the table.",
            "~save the thing that is closest to the edge.",
            "~which item has the shortest way to the edge of the table?",
        ),
    }
    ALL_DANGERS: ClassVar = {
        "rolls": (
            "show me everything that could roll off the table.",
            "which things could roll away?",
            "find all things that might roll off the table.",
            "take away all that could roll off the table.",
            "~pick out every item that would roll down.",
        ),
        "breaks": (
            "show me everything that would break if it fell.",
            "which things would shatter on the floor?",
            "put away all things that would break if they fell.",
            "find all the breakable things.",
            "~which items are fragile?",
        ),
        "cuts": (
            "take away everything that a child could cut itself with.",
            "which things are too sharp for a small child?",
            "show me all the sharp things.",
            "put everything sharp out of the children's reach.",
            "~collect all the items that could cut little fingers.",
        ),
    }
    chain_words = ChainWords(
        places=("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"),
        thing="{n} {name} {place}",
        anchor="reference: {ids}",
        among="among: {ids}",
        order="in order: {ids}",
        yes="yes: {ids}",
        no="no",
        region="{n}: rows {rows}, columns {columns}",
        no_region="none",
        fits="{named} is {what}.",
        fit="{named} are {what}.",
        nothing="Not there: {what}.",
    )

    def noun(self, kind: str) -> str:
        singular, _, plural = NOUNS[kind][0].partition("|")
        return singular or plural

    def is_plural_only(self, kind: str) -> bool:
        return NOUNS[kind][0].startswith("|")

    def name(self, thing: ObjectView) -> str:
        adjectives = [thing.color] if thing.pattern == "plain" else [thing.pattern, thing.color]
        return " ".join((*adjectives, self.noun(thing.kind)))

    def head(self, what: Description, plural: bool) -> Phrase:
        """The noun with its adjectives, without article."""
        table = NOUNS[what.kind] if what.kind else CATEGORY_NOUNS[what.category] if what.category else THING
        singular, _, several = self.pick_once(table).partition("|")
        noun, plural = (several, True) if plural or not singular else (singular, False)
        adjectives = [self.pick(PATTERNS[what.pattern])] if what.pattern else []
        tail = ""
        if what.color and what.kind in HANDLED and what.color != "silver" and self.pick(("with", "plain")) == "with":
            tail = f" with the {what.color} handle"
        elif what.color:
            adjectives.append(what.color)
        if what.material:
            adjectives += [m for m in (self.pick(MATERIALS[what.material]),) if m not in noun]
        if what.not_color:
            tail = " " + self.pick(("that [is|are] not {}", "that [isn't|aren't] {}", "~in a colour other than {}"))
            tail = tail.format(what.not_color)
        if what.not_kind:
            other = with_article(self.noun(what.not_kind))
            tail = " " + self.pick(("that [is|are] not {}", "other than {}", "~which [isn't|aren't] {}")).format(other)
        tail = re.sub(r"\[([^|]*)\|([^\]]*)\]", lambda m: m[2 if plural else 1], tail)
        return Phrase(" ".join((*adjectives, noun)) + tail, plural)

    def described(self, what: Description, before: str = "", case: str = "") -> Phrase:
        """A description as a definite noun phrase; `before`: "third", "largest"."""
        if what.use:
            return self.useful(what)
        if what.hazard:
            return Phrase("the thing that " + self.pick(HAZARDS[what.hazard]))
        head = self.head(what, False)
        text = f"{before} {head.text}" if before else head.text
        if (what.not_color or what.not_kind) and not head.plural and case != "the" and self.pick(("the", "a")) == "a":
            return Phrase(with_article(text))
        return Phrase(f"the {text}", head.plural)

    def useful(self, what: Description) -> Phrase:
        use = self.pick(USES[what.use])
        text = self.pick(("something to {}", "something I can {}", "~anything to {}")).format(use)
        if what.not_color:
            text += self.pick((", but not the {} one", ", but nothing {}")).format(what.not_color)
        if what.not_kind:
            text += self.pick((", but not the {}", ", but no {}")).format(self.noun(what.not_kind))
        return Phrase(text)

    def refer(self, query: Query, case: str = "") -> Phrase:
        match query:
            case Only(what):
                if what.use and case == "known":
                    return Phrase(self.pick(("what you can {}", "the thing to {}")).format(self.pick(USES[what.use])))
                return self.described(what, case=case)
            case Every(what):
                if what.hazard:
                    return Phrase("everything that " + self.pick(ALL_HAZARDS[what.hazard]))
                head = self.head(what, True)
                several = ["all the {}", "all of the {}"]
                if self.count == 2 and what.kind:
                    several = ["both {}", "the two {}", *several]
                plural = head.text not in ("fruit", "cutlery", "crockery", "food")
                return Phrase(self.pick(several).format(head.text), plural)
            case Except(anchor):
                return Phrase(
                    self.pick(("everything except {}", "everything but {}", "~everything apart from {}")).format(
                        self.refer(anchor, "known").text
                    )
                )
            case Ordinal(what, "front", n):
                near = "nearest" if n == 1 else f"{ORDINALS[n - 1]} nearest"
                return self.described(what, self.pick((near, near.replace("nearest", "closest"))))
            case Ordinal(what, side, n):
                if n == 1 and self.pick(("most", "first")) == "most":
                    return self.described(what, f"{side}most")
                phrase = self.described(what, ORDINALS[n - 1])
                return Phrase(
                    f"{phrase.text} " + self.pick(("from the {}", "~counted from the {}")).format(side), phrase.plural
                )
            case Extreme(what, measure):
                return self.described(what, self.pick(SUPERLATIVES[measure]))
            case Beside() | NextTo() | Between():
                if query.what.use:
                    return Phrase(f"{self.useful(query.what).text} that is {self.place(query)}")
                phrase = self.described(query.what)
                return Phrase(f"{phrase.text} {self.place(query)}", phrase.plural)
            case NearestEdge():
                return Phrase("the thing nearest to the edge of the table")

    def place(self, query: Beside | NextTo | Between) -> str:
        if isinstance(query, Between):
            return f"between {self.refer(query.first, 'known').text} and {self.refer(query.second, 'known').text}"
        near = self.pick(NEAR)
        before = near if isinstance(query, NextTo) else self.pick(SIDES[query.side])
        return f"{before} {self.refer(query.anchor, 'known').text}"


def with_article(noun: str) -> str:
    """With "a" or "an"; a plural-only noun takes neither."""
    if noun.endswith("scissors") and " of " not in noun:
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun
