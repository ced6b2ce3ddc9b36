"""Chinese (simplified)."""

from __future__ import annotations

from typing import ClassVar

from rsvp_ros.tabletop.descriptions import HANDLED, Description
from rsvp_ros.tabletop.language.grammar import ChainWords, Grammar, Phrase
from rsvp_ros.tabletop.language.training_zh import PARAPHRASES
from rsvp_ros.tabletop.queries import Beside, Between, Every, Except, Extreme, NearestEdge, NextTo, Only, Ordinal, Query
from rsvp_ros.tabletop.view import ObjectView

# Measure word and noun
NOUNS = {
    "mug": ("个 马克杯", "~个 带把的杯子"),
    "cup": ("个 纸杯", "~个 一次性纸杯"),
    "bottle": ("个 瓶子", "个 塑料瓶"),
    "bowl": ("个 碗",),
    "plate": ("个 盘子", "~个 碟子"),
    "teapot": ("个 茶壶",),
    "pan": ("个 平底锅", "~个 煎锅"),
    "knife": ("把 刀", "把 刀子"),
    "fork": ("把 叉子",),
    "spoon": ("把 勺子", "~把 汤匙"),
    "scissors": ("把 剪刀", "~把 剪子"),
    "hammer": ("把 锤子", "~把 榔头"),
    "screwdriver": ("把 螺丝刀", "~把 改锥"),
    "spanner": ("把 扳手",),
    "tape": ("卷 胶带", "~卷 胶布"),
    "book": ("本 书",),
    "pen": ("支 笔", "支 圆珠笔"),
    "phone": ("部 手机", "~部 智能手机"),
    "remote": ("个 遥控器", "~个 电视遥控器"),
    "battery": ("节 电池",),
    "key": ("把 钥匙",),
    "banana": ("根 香蕉",),
    "apple": ("个 苹果",),
    "orange": ("个 橙子", "~个 甜橙"),
    "pear": ("个 梨", "~个 梨子"),
    "lemon": ("个 柠檬",),
    "carrot": ("根 胡萝卜", "~根 红萝卜"),
    "can": ("个 罐子", "~个 金属罐"),
    "box": ("个 盒子", "个 纸盒"),
    "candle": ("根 蜡烛",),
    "sponge": ("块 海绵",),
    "ball": ("个 球", "个 皮球"),
    "cube": ("个 木块", "个 积木", "~个 方木块"),
}
CATEGORY_NOUNS = {
    "fruit": ("个 水果",),
    "tool": ("件 工具",),
    "electronics": ("个 电子产品", "~个 电子设备"),
    "food": ("个 食物", "~样 食品"),
    "cutlery": ("把 叉子或勺子",),
}
THING = ("个 东西", "个 物品", "件 东西", "~个 物体")
COLORS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "white": "白色",
    "black": "黑色",
    "gray": "灰色",
    "silver": "银色",
}
PATTERNS = {"striped": ("带条纹的", "条纹的"), "dotted": ("带圆点的", "~波点的"), "checked": ("格子的", "带格子图案的")}
SHORT_PATTERNS = {"plain": "", "striped": "条纹", "dotted": "圆点", "checked": "格子"}
MATERIALS = {"wood": ("木头的", "木制的"), "metal": ("金属的", "~金属做的"), "ceramic": ("陶瓷的", "~瓷的")}
NUMBERS = "一二三四五六"
USES = {
    "cut": ("可以用来切断绳子", "能剪断这根绳子", "~可以用来剪线"),
    "drink": ("可以用来喝茶", "可以用来喝咖啡", "~可以用来喝热饮"),
    "pour": ("可以用来倒饮料", "能往杯子里倒水"),
    "eat_soup": ("可以用来喝汤", "可以用来搅拌咖啡", "~可以用来舀汤喝"),
    "spear": ("可以用来卷意大利面", "吃西餐时可以用来叉肉"),
    "drive_nail": ("可以用来钉钉子", "能把钉子敲进墙里", "~可以用来敲钉子"),
    "turn_screw": ("可以用来拧螺丝", "能把螺丝拧紧", "~可以用来卸螺丝"),
    "loosen_nut": ("可以用来拧螺母", "能把螺母拧松"),
    "write": ("可以用来写字", "可以用来签名", "~可以用来记笔记"),
    "read": ("可以拿来阅读", "可以拿来读给孩子听", "~可以在睡前翻一翻"),
    "call": ("可以用来打电话", "能给妈妈打电话", "~可以用来联系医生"),
    "switch_tv": ("可以用来打开电视", "可以用来换台", "~可以用来调电视音量"),
    "snack": ("可以当健康零食吃", "可以当甜的零食直接吃"),
    "power": ("可以给挂钟供电", "能让手电筒重新亮起来"),
    "wipe": ("可以用来擦桌子", "可以用来洗碗", "~可以用来擦水槽"),
    "throw": ("可以拿来玩抛接游戏", "可以扔给狗玩"),
    "light": ("停电时可以点亮", "可以点燃照明"),
    "stick": ("可以用来把两张纸粘在一起", "可以用来封包裹"),
    "unlock": ("可以用来开锁", "能打开锁着的门"),
    "serve_soup": ("可以用来盛汤", "可以用来装麦片"),
    "fry": ("可以用来煎鸡蛋", "可以用来煎饼"),
    "make_tea": ("可以用来泡一壶茶", "可以用来给大家沏茶"),
}
HAZARDS = {
    "rolls": ("可能滚下桌子", "可能会滚走"),
    "breaks": ("掉到地上会碎", "摔下去会碎"),
    "cuts": ("可能割伤小孩", "对小孩来说太锋利"),
}
SIDES = {
    "left": ("左边", "左侧", "~左手边"),
    "right": ("右边", "右侧", "~右手边"),
    "front": ("前面", "~前方"),
    "behind": ("后面", "~后方"),
}
NEAR = ("旁边", "~边上")
SUPERLATIVES = {
    "largest": ("最大",),
    "smallest": ("最小",),
    "longest": ("最长",),
    "shortest": ("最短",),
    "tallest": ("最高",),
}


class Chinese(Grammar):
    language = "zh"
    PARAPHRASES = PARAPHRASES
    GIVE = (
        "给我{x:one}。",
        "请把{x:the}递给我。",
        "把{x:the}拿给我。",
        "帮我拿一下{x:the}。",
        "我需要{x:one}。",
        "我想要{x:one}。",
        "请拿起{x:the}。",
        "能把{x:the}给我吗?",
        "我在找{x:one}。",
        "麻烦你把{x:the}递过来。",
        "~可以帮我取一下{x:the}吗?",
        "~劳驾，把{x:the}拿过来。",
        "~我要用{x:the}。",
    )
    WHERE = (
        "{x:the}在哪里?",
        "指一下{x:the}。",
        "找到{x:the}。",
        "请标出图中{x:the}。",
        "你能看到{x:the}吗?",
        "让我看看{x:the}。",
        "~{x:the}在什么位置?",
        "~请定位{x:the}。",
    )
    ANY = ("这里有{x:one}吗?", "有没有{x:one}?", "帮我找{x:one}。", "你能找到{x:one}吗?", "~你那儿有{x:one}吗?")
    PLACE = (
        "{place}是什么?",
        "{place}有什么?",
        "{place}放着什么?",
        "{place}的是什么东西?",
        "把{place}的东西给我。",
        "请拿起{place}的东西。",
        "你看{place}是什么东西?",
        "~告诉我{place}有什么。",
        "~{place}摆着什么东西?",
    )
    ALL = (
        "把{x}给我。",
        "请拿起{x}。",
        "让我看看{x}。",
        "找出{x}。",
        "请把{x}放进篮子里。",
        "{x}在哪里?",
        "我需要{x}。",
        "请标出图中{x}。",
        "请把{x}收走。",
        "~帮我把{x}收集起来。",
        "~麻烦你把{x}拿开。",
    )
    NEEDS: ClassVar = {
        "cut": ("我想切断这根绳子。", "这根绳子太长了，我想把它剪短。", "用什么可以剪断这根线?", "~得把绳子分成两段。"),
        "drink": ("我想喝咖啡，用什么喝?", "我可以用什么喝茶?"),
        "pour": ("用什么给大家倒饮料?", "我要往杯子里倒水，从哪里倒?"),
        "eat_soup": ("我用什么喝汤?", "我的咖啡需要搅拌一下。", "~汤好了，用什么舀着喝?"),
        "spear": ("我用什么卷意大利面?", "我要吃意大利面，用什么卷?"),
        "drive_nail": (
            "我要往墙上钉钉子。",
            "这颗钉子凸出来了，我想把它敲进去。",
            "我要挂一幅画，钉子已经有了，还缺什么?",
            "~钉子得钉进木板里。",
        ),
        "turn_screw": ("这颗螺丝松了。", "我要拧紧一颗螺丝。", "~我想用螺丝把架子装好。"),
        "loosen_nut": ("这个螺母拧不动。", "我要拧紧一个螺母。", "这个六角螺母得拆下来。"),
        "write": ("我想记下一个电话号码。", "我得在这张表上签名。", "~我想写点东西。"),
        "read": ("我很无聊，想读点什么。", "我想给孩子们讲个书上的故事。", "~睡前我想看会儿小说。"),
        "call": ("我得给妈妈打个电话。", "我想打电话给医生。", "~我有急事要打电话。"),
        "switch_tv": ("我想看电视。", "电视声音太大了。", "请换个频道。", "~这个电视节目不好看。"),
        "snack": ("我想吃点又甜又健康的。", "有什么可以当健康零食吃?"),
        "power": ("挂钟停了，没电了。", "我的手电筒没电了。", "~玩具车没电了。"),
        "wipe": ("我的手脏了。", "我把牛奶洒了。", "桌子黏糊糊的。", "~碗还没洗呢。"),
        "throw": ("狗想玩耍。", "我们来玩抛接游戏吧。", "~孩子们想出去玩。"),
        "light": ("停电了，好黑。", "我想要浪漫的晚餐灯光。", "~有人过生日，点什么好?"),
        "stick": ("这一页撕破了，我想修补一下。", "我得封好这个包裹。", "~怎么把海报贴到墙上?"),
        "unlock": ("门锁着，我想进去。", "我进不了家门。", "~我得打开这把锁。"),
        "serve_soup": ("我用什么盛麦片?", "汤很烫，盛在哪里?"),
        "fry": ("我想煎个鸡蛋。", "我们来煎饼吧。", "~我想吃煎蛋了。"),
        "make_tea": ("我想泡一壶四个人喝的茶。", "客人想喝茶，用什么泡?"),
    }
    DANGERS: ClassVar = {
        "rolls": (
            "什么东西可能滚下桌子?",
            "哪个东西会滚走?",
            "桌子要是歪了，什么会滚下去?",
            "小心，有东西可能滚下桌子。",
            "扶住可能滚下桌子的东西。",
            "有没有会滚下去的东西?",
            "让我看看什么会滚走。",
            "把可能滚下桌子的东西拿开。",
            "~有人碰到桌子的话，什么会滚来滚去?",
        ),
        "breaks": (
            "什么东西掉下去会碎?",
            "哪个东西摔到地上会碎?",
            "有没有掉下去会摔碎的东西?",
            "把掉到地上会碎的东西收好。",
            "小心会摔碎的东西。",
            "让我看看什么东西摔了会碎。",
            "什么东西不能摔，一摔就碎?",
            "~这里什么是易碎的?",
        ),
        "cuts": (
            "什么东西可能割伤小孩?",
            "小孩要来了，把锋利的东西拿开。",
            "什么东西对小孩来说太锋利?",
            "有没有会割伤小孩的锋利东西?",
            "把会割到小孩的东西收起来。",
            "让我看看锋利的东西。",
            "什么东西太锋利，不能给小孩玩?",
            "~什么东西容易划破手指?",
        ),
        "edge": (
            "什么东西离桌边最近?",
            "哪个东西最靠近桌子边缘?",
            "什么东西就在桌子边上?",
            "把最靠近桌边的东西移开。",
            "让我看看离桌子边缘最近的东西。",
            "有个东西离桌边太近了，请把它移开。",
            "请把最靠近桌边的东西往里推一推。",
            "~哪个物品到桌边的距离最短?",
        ),
    }
    ALL_DANGERS: ClassVar = {
        "rolls": (
            "让我看看所有可能滚下桌子的东西。",
            "哪些东西可能会滚走?",
            "找出所有会滚下去的东西。",
            "~把会滚的东西全都拿开。",
        ),
        "breaks": (
            "让我看看所有掉下去会碎的东西。",
            "哪些东西摔到地上会碎?",
            "把所有会摔碎的东西收好。",
            "~哪些东西是易碎的?",
        ),
        "cuts": (
            "把所有可能割伤小孩的东西拿开。",
            "哪些东西对小孩来说太锋利?",
            "让我看看所有锋利的东西。",
            "~把会划伤手的东西全都收起来。",
        ),
    }
    chain_words = ChainWords(
        places=("左上方", "上方", "右上方", "左边", "中间", "右边", "左下方", "下方", "右下方"),
        thing="{n}{name}在{place}",
        anchor="参照：{ids}",
        among="候选：{ids}",
        order="依次：{ids}",
        yes="有：{ids}",
        no="没有",
        region="{n}：第{rows}行，第{columns}列",
        no_region="无",
        fits="{named}：{what}。",
        fit="{named}：{what}。",
        nothing="没找到：{what}。",
        comma="、",
        semicolon="；",
        colon="：",
        named="{n}{name}",
    )

    @classmethod
    def knows(cls, query: Query) -> bool:
        what = getattr(query, "what", None)
        if what is not None and what.category == "cutlery" and not isinstance(query, Every):
            return False
        if what is not None and what.category and what.category not in CATEGORY_NOUNS:
            return False
        return all(cls.knows(q) for q in vars(query).values() if isinstance(q, Query))

    def noun(self, kind: str) -> str:
        return _read(NOUNS[kind][0])[1]

    def name(self, thing: ObjectView) -> str:
        return f"{COLORS[thing.color]}{SHORT_PATTERNS[thing.pattern]}{self.noun(thing.kind)}"

    def head(self, what: Description) -> tuple[str, str, str]:
        """What comes before the noun, its measure word, the noun."""
        table = NOUNS[what.kind] if what.kind else CATEGORY_NOUNS[what.category] if what.category else THING
        measure, noun = _read(self.pick_once(table))
        before = ""
        if what.use:
            before += self.pick(USES[what.use])
            if what.not_color or what.not_kind:
                other = COLORS[what.not_color] if what.not_color else self.noun(what.not_kind or "")
                return f"{before}、但不是{other}的", measure, noun
            before += "的"
        if what.hazard:
            before += self.pick(HAZARDS[what.hazard]) + "的"
        if what.not_color:
            before += self.pick(("不是{}的", "~非{}的")).format(COLORS[what.not_color])
        if what.not_kind:
            before += self.pick(("不是{}的", "除了{}以外的")).format(self.noun(what.not_kind))
        if what.material and not (what.material == "wood" and "木" in noun):
            before += self.pick(MATERIALS[what.material])
        if what.color:
            if what.kind in HANDLED and what.color != "silver" and self.pick(("with", "plain")) == "with":
                before += f"{COLORS[what.color]}手柄的"
            else:
                before += f"{COLORS[what.color]}的"
        if what.pattern:
            before += self.pick(PATTERNS[what.pattern])
        return before, measure, noun

    def refer(self, query: Query, case: str = "") -> Phrase:
        """`case`: "one" if what is asked for may not be known yet, "the" if a particular one is meant."""
        match query:
            case Only(what):
                before, measure, noun = self.head(what)
                if case == "one" and (what.use or what.not_color or what.not_kind):
                    return Phrase(f"一{measure}{before}{noun}")
                # "The" (那) goes between a long description and the noun, but before a short one: 那把红色的刀
                if case and self.pick(("bare", "that")) == "that":
                    return Phrase(
                        f"{before}那{measure}{noun}"
                        if what.use or before.startswith(("不是", "除", "非"))
                        else f"那{measure}{before}{noun}"
                    )
                return Phrase(f"{before}{noun}")
            case Every(what):
                before, measure, noun = self.head(what)
                if what.category == "cutlery":
                    noun = "叉子和勺子"
                if self.count == 2 and what.kind and self.pick(("two", "all")) == "two":
                    return Phrase(f"那两{measure}{before}{noun}")
                return Phrase(self.pick(("所有的{}", "所有{}", "~全部的{}")).format(_of(before, noun)))
            case Except(anchor):
                known = self.refer(anchor).text
                return Phrase(self.pick(("除了{}以外的所有东西", "除{}之外的全部东西")).format(known))
            case Ordinal(what, "front", n):
                before, measure, noun = self.head(what)
                nearest = "离我最近" if n == 1 else f"离我第{NUMBERS[n - 1]}近"
                if self.pick(("me", "camera")) == "camera":
                    nearest = nearest.replace("我", "镜头")
                return Phrase(f"{nearest}的{before}{noun}" if not case else f"{nearest}的那{measure}{before}{noun}")
            case Ordinal(what, side, n):
                before, measure, noun = self.head(what)
                direction = {"left": "左", "right": "右"}[side]
                if n == 1 and self.pick(("most", "first")) == "most":
                    return Phrase(f"最{direction}边的{before}{noun}")
                counted = self.pick(
                    ("从{}边数第{}", "{}起第{}", "~从{}往" + {"左": "右", "右": "左"}[direction] + "数第{}")
                )
                return Phrase(f"{counted.format(direction, NUMBERS[n - 1])}{measure}{before}{noun}")
            case Extreme(what, measure):
                before, counter, noun = self.head(what)
                most = self.pick(SUPERLATIVES[measure])
                return Phrase(f"{before}{most}的{noun}" if not case else f"{before}{most}的那{counter}{noun}")
            case Beside() | NextTo() | Between():
                before, measure, noun = self.head(query.what)
                place = self.place(query)
                if query.what.use:
                    return Phrase(f"放在{place}、{before}{noun}")
                return Phrase(f"{place}{'那' + measure if case else '的'}{before}{noun}")
            case NearestEdge():
                return Phrase("离桌边最近的东西")

    def place(self, query: Beside | NextTo | Between) -> str:
        if isinstance(query, Between):
            return f"{self.refer(query.first).text}和{self.refer(query.second).text}" + self.pick(("中间", "之间"))
        near = self.pick(NEAR)
        where = near if isinstance(query, NextTo) else self.pick(SIDES[query.side])
        return self.refer(query.anchor).text + where

    def finish(self, text: str) -> str:
        return text.replace("?", "？")


def _read(entry: str) -> tuple[str, str]:
    """Measure word and noun."""
    measure, _, noun = entry.partition(" ")
    return measure, noun


def _of(before: str, noun: str) -> str:
    return before + noun if before else noun
